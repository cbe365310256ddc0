/** Whether rows keep their places: somebody is among them, or has asked for it. */

const POINTED_MS = 10_000; // a pointer that rests for longer reads nothing

/** Holds as long as the focus is among the rows, and a while after the pointer moved there. */
export class Hold {
  pinned = false;
  #focused = false;
  #pointedAt = -Infinity;

  get on() {
    return this.pinned || this.#focused || performance.now() - this.#pointedAt < POINTED_MS;
  }

  /** Forget whoever was there: the rows are gone. */
  release() {
    this.#focused = false;
    this.#pointedAt = -Infinity;
  }

  /** Take in an event of the rows. */
  notice({ type, currentTarget, target, relatedTarget, pointerType }) {
    if (type === "pointermove" || type === "pointerdown") this.#pointedAt = performance.now();
    // A finger leaves whenever it is lifted; who has scrolled by it is still there.
    if (type === "pointerleave" && pointerType !== "touch") this.#pointedAt = -Infinity;
    if (type === "focusin") this.#focused = target.matches(":focus-visible");
    if (type === "focusout") this.#focused &&= currentTarget.contains(relatedTarget);
  }
}
