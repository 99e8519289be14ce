"use strict";
// Texts of marks: the nearest one is shown, so that a finger finds small marks too.
(() => {
  const tip = document.getElementById("tip");
  const reach = 22;
  let last = null;
  const hide = () => {
    tip.hidden = true;
    if (last) last.classList.remove("on");
    last = null;
  };
  for (const svg of document.querySelectorAll("svg")) {
    const marks = [...svg.querySelectorAll(".mark")];
    if (!marks.length) continue;
    for (const mark of marks) {
      const title = mark.querySelector("title");
      mark.dataset.tip = title.textContent;
      title.remove();
    }
    const show = (event) => {
      let best = null, least = [reach, Infinity];
      for (const mark of marks) {
        const box = mark.getBoundingClientRect();
        const aside = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
        const above = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
        const own = [Math.hypot(aside, above), box.width * box.height];
        if (own[0] < least[0] || (own[0] === least[0] && own[1] < least[1])) [best, least] = [mark, own];
      }
      if (!best) return hide();
      if (last && last !== best) last.classList.remove("on");
      last = best;
      best.classList.add("on");
      tip.textContent = best.dataset.tip;
      tip.hidden = false;
      const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
      const below = event.clientY + 16 + tip.offsetHeight > innerHeight;
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${below ? event.clientY - tip.offsetHeight - 12 : event.clientY + 16}px`;
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, {passive: true});
})();
// Pictures of the same size: two of them, with a border that is moved.
(() => {
  for (const slider of document.querySelectorAll(".slider")) {
    const pictures = [...slider.querySelectorAll(".gallery figure")];
    if (pictures.length < 2) continue;
    const names = pictures.map((figure) => figure.querySelector("figcaption").textContent);
    const stage = document.createElement("div"), border = document.createElement("div");
    const range = Object.assign(document.createElement("input"), {type: "range", min: 0, max: 100, value: 50});
    range.setAttribute("aria-label", "Border between the two pictures");
    stage.className = "stage";
    border.className = "border";
    const images = [document.createElement("img"), document.createElement("img")];
    stage.append(...images, border);
    const move = () => stage.style.setProperty("--at", `${range.value}%`);
    const controls = document.createElement("div");
    controls.className = "controls";
    const choices = ["left", "right"].map((side, place) => {
      const choice = document.createElement("select");
      choice.setAttribute("aria-label", `Picture at the ${side}`);
      names.forEach((name, number) => choice.append(new Option(name, number)));
      choice.value = place ? names.length - 1 : Math.max(0, names.length - 2);
      const show = () => {
        const from = pictures[choice.value].querySelector("img");
        images[place].src = from.src;
        images[place].alt = from.alt;
      };
      choice.addEventListener("change", show);
      show();
      return choice;
    });
    controls.append(choices[0], range, choices[1]);
    range.addEventListener("input", move);
    const drag = (event) => {
      if (event.type === "pointermove" && !event.buttons && event.pointerType === "mouse") return;
      const box = stage.getBoundingClientRect();
      range.value = 100 * (event.clientX - box.left) / box.width;
      move();
    };
    stage.addEventListener("pointerdown", drag);
    stage.addEventListener("pointermove", drag);
    move();
    slider.insertBefore(controls, slider.querySelector(".gallery"));
    slider.insertBefore(stage, slider.querySelector(".gallery"));
  }
})();
