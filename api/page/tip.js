/** The words beside the pointer on the map. */

import { ageText } from "./words.js";

/** Say which device the pointer is at; hide the words if it is at none. */
export function showTip(tip, fleet, device, x, y) {
  if (!tip) return;
  tip.hidden = device === null;
  if (!device) return;
  tip.textContent = `${fleet.stateOf(device)} · ${ageText(fleet.ageOf(device))} · \u2068${device.name}\u2069`;
  const right = x > tip.parentElement.clientWidth / 2;
  tip.style.left = right ? "" : `${x + 14}px`;
  tip.style.right = right ? `${tip.parentElement.clientWidth - x + 14}px` : "";
  tip.style.top = `${Math.max(4, y - 30)}px`;
}
