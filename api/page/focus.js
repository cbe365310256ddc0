/** Where the keyboard focus goes when a view or its rows change. */

/** Keep the focus on the device that has it, in whichever row it is now; else focus the title. */
export function focusRow(root, href) {
  if (document.activeElement?.getAttribute("href") === href) return;
  const links = [...root.querySelectorAll("tbody a")];
  const link = links.find((one) => one.getAttribute("href") === href);
  (link ?? root.querySelector("h1"))?.focus({ preventScroll: true });
}

/** Focus the title if the focused element is gone. */
export function focusTitle(root) {
  if (document.activeElement === document.body) {
    root.querySelector("h1")?.focus({ preventScroll: true });
  }
}

/** Scroll to the top of a new view and focus its title; back from a device, focus its row. */
export function focusView(root, before) {
  scrollTo(0, 0);
  const link = `tbody a[href*="/device/${CSS.escape(before.device)}"]`;
  const row = before.view === "device" && root.querySelector(link);
  (row || root.querySelector("h1"))?.focus({ preventScroll: !row });
}
