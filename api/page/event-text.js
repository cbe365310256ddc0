/** Says what happened to devices, as text. */

import { countedText, spanText } from "./formatting.js";

const COUNTED = {
  "device.offline": "went offline",
  "device.online": "came online",
  "device.registered": "registered",
  "device.deactivated": "deactivated",
  "device.moved": "moved",
};

/**
 * Return what happened to a device, to follow its name.
 * @param {object} event as the service sends it.
 * @param {string} group the group that is shown.
 */
export function eventText({ type, offline_for_s: offlineForS, group_id: to, from_group_id: from }, group) {
  if (type === "device.online") return offlineForS ? `came online after ${spanText(offlineForS)}` : "came online";
  if (type === "device.offline") return "went offline";
  if (type === "device.registered") return "was registered";
  if (type === "device.deactivated") return "was deactivated";
  if (type === "device.moved") return from === group ? `moved to ${to}` : `came from ${from}`;
  return type;
}

/** Return how many events of each type there were. */
export function countsText(counts) {
  const texts = Object.entries(counts).map(
    ([type, count]) => `${countedText(count, "device", "devices")} ${COUNTED[type] ?? type}`,
  );
  return texts.join(", ");
}
