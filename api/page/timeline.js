/** What a device was in the last day, from its events and from what it is now. */

const AFTER = {
  "device.registered": "online",
  "device.online": "online",
  "device.offline": "offline",
  "device.deactivated": "absent",
};
const BEFORE = { "device.registered": "absent", "device.offline": "online" };
const NOW = { online: "online", idle: "online", offline: "offline", never: "absent" };

/**
 * Return the pieces of a span of time, oldest first and without gaps. A device that is idle counts as
 * online: only the change to offline is stored.
 * @param {object} device
 * @param {object[]} events of the device, newest first.
 * @param {number} from epoch seconds.
 * @param {number} to epoch seconds.
 * @returns {{state: "online"|"offline"|"absent"|"unknown", from: number, to: number}[]}
 */
export function piecesOf(device, events, from, to) {
  const changes = changesOf(device, events);
  const pieces = [];
  changes.forEach(({ state, at }, i) => {
    const piece = { state, from: Math.max(at, from), to: Math.min(changes[i + 1]?.at ?? to, to) };
    if (piece.from >= piece.to) return;
    const last = pieces.at(-1);
    if (last?.state === state) last.to = piece.to;
    else pieces.push(piece);
  });
  return pieces;
}

/** Return how long a device was in each state, in seconds. */
export function totalsOf(pieces) {
  const totals = { online: 0, offline: 0, absent: 0, unknown: 0 };
  for (const { state, from, to } of pieces) totals[state] += to - from;
  return totals;
}

function changesOf(device, events) {
  const changes = [{ state: "unknown", at: -Infinity }];
  // A touch that was written late may be older than the event before.
  const change = (state, at) => changes.push({ state, at: Math.max(at, changes.at(-1).at) });
  for (const { type, at, offline_for_s: offlineForS } of events.toReversed()) {
    if (!AFTER[type]) continue;
    const second = Date.parse(at) / 1000;
    if (changes.length === 1) changes[0].state = BEFORE[type] ?? "unknown";
    if (type === "device.online" && changes.at(-1).state !== "offline") {
      change("offline", second - (offlineForS ?? 0)); // the event of that is not among these
    }
    change(AFTER[type], second);
  }
  const state = NOW[device.presence];
  if (changes.at(-1).state !== state) {
    // Nothing was stored of it, as before the service stored presence, or it is only just so.
    const known = device.presence === "idle" ? device.seen : device.since;
    change(state, known ?? -Infinity);
  }
  return changes;
}
