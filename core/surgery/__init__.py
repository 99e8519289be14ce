"""Networks at other widths: resized, gated, cut, shortened, freshly started; and the proof that masked equals cut."""
