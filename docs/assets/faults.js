// The search field of "Faults and answers": texts that fit what was pasted, else those that hold all its words.
document.addEventListener("DOMContentLoaded", () => {
  const field = document.getElementById("fault");
  if (!field) return;
  const count = document.getElementById("fault-count");
  const texts = [...document.querySelectorAll("ul.faults li")].map((item) => ({
    item,
    pattern: new RegExp(item.dataset.pattern, "i"),
    says: Number(item.dataset.says),
    text: item.textContent.toLowerCase(),
  }));
  const sections = [...document.querySelectorAll("ul.faults")].map((list) => {
    const parts = [list];
    for (let part = list.previousElementSibling; part; part = part.previousElementSibling) {
      parts.push(part);
      if (part.tagName === "H2") break;
    }
    return { list, parts };
  });
  const search = () => {
    const asked = field.value.trim().replace(/^error:\s*/i, "").replace(/\s+/g, " ");
    const words = asked.toLowerCase().split(/[^\p{L}\p{N}_.]+/u).filter((word) => word.length > 1);
    let fitting = asked.length > 12 ? texts.filter(({ pattern, says }) => says > 7 && pattern.test(asked)) : [];
    const exact = fitting.length > 0;
    if (!exact) fitting = texts.filter(({ text }) => words.every((word) => text.includes(word)));
    const shown = new Set(asked ? fitting : texts);
    for (const entry of texts) entry.item.hidden = !shown.has(entry);
    for (const { list, parts } of sections) {
      const none = [...list.children].every((item) => item.hidden);
      for (const part of parts) part.hidden = none;
    }
    count.textContent = !asked ? "" : exact ? "This text:" : `${fitting.length} texts with these words.`;
  };
  field.addEventListener("input", search);
});
