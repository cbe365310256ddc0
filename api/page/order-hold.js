/** Whether table rows keep their order: a reader is among them, or has pinned them. */

const POINTED_MS = 10_000; // a pointer that rests for longer is not in use

/** Active while the focus is among the rows, and for a while after the pointer moved over them. */
export class OrderHold {
  isPinned = false;
  #isFocused = false;
  #pointedAt = -Infinity;

  get isActive() {
    return this.isPinned || this.#isFocused || performance.now() - this.#pointedAt < POINTED_MS;
  }

  /** Forget focus and pointer: the rows are no longer shown. */
  release() {
    this.#isFocused = false;
    this.#pointedAt = -Infinity;
  }

  /** Handle a pointer or focus event of the rows. */
  handle({ type, currentTarget, target, relatedTarget, pointerType }) {
    if (type === "pointermove" || type === "pointerdown") this.#pointedAt = performance.now();
    // A finger "leaves" whenever it is lifted, and the reader may only have scrolled.
    if (type === "pointerleave" && pointerType !== "touch") this.#pointedAt = -Infinity;
    if (type === "focusin") this.#isFocused = target.matches(":focus-visible");
    if (type === "focusout") this.#isFocused &&= currentTarget.contains(relatedTarget);
  }
}
