/** The tooltip of a device on the map. */

import { ageText } from "./formatting.js";

/** Show the tooltip of the device under the pointer; hide it if `device` is null. */
export function showTooltip(tooltip, snapshot, device, x, y) {
  if (!tooltip) return;
  tooltip.hidden = device === null;
  if (!device) return;
  tooltip.textContent = `${device.presence} · ${ageText(snapshot.ageOf(device))} · \u2068${device.name}\u2069`;
  const right = x > tooltip.parentElement.clientWidth / 2;
  tooltip.style.left = right ? "" : `${x + 14}px`;
  tooltip.style.right = right ? `${tooltip.parentElement.clientWidth - x + 14}px` : "";
  tooltip.style.top = `${Math.max(4, y - 30)}px`;
}
