/** Formats numbers, times, positions and names as text. */

const instants = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const times = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const VISIBLE = /[\p{L}\p{N}\p{P}\p{S}]/u;
const BLANK = /[\u115f\u1160\u2800\u3164\uffa0]/g; // letters and signs without a glyph
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** Return a device's name as one visible line, whatever characters it was registered with. */
export function nameOf(displayName) {
  // Joiners shape Indic and Arabic script and emoji; any other invisible character only misleads.
  const name = displayName.replace(INVISIBLE, (one) => (/[\u200c\u200d]/.test(one) ? one : " "));
  return VISIBLE.test(name.replace(BLANK, "")) ? name.trim() : "(no name)";
}

/** Normalize a text for searching: without case, accents and repeated white space. */
export function searchable(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").replace(/\s+/g, " ").trim().toLocaleLowerCase();
}

/** Return an age (seconds) as text; null is "never". */
export function ageText(seconds) {
  if (seconds === null) return "never";
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** Return a length of time (seconds) in whole minutes, or in days and hours. */
export function spanText(seconds) {
  if (seconds < 60) return "less than a minute";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

/** Return an instant (epoch seconds) in the user's time zone. */
export function timeText(epochS) {
  return instants.format(epochS * 1000);
}

/** Return the time of day of an instant (epoch seconds) in the user's time zone. */
export function clockText(epochS) {
  return times.format(epochS * 1000);
}

/** Return an instant (epoch seconds) in ISO 8601. */
export function isoText(epochS) {
  return new Date(epochS * 1000).toISOString();
}

/** Return a count with separators. */
export function countText(number) {
  return number.toLocaleString("en");
}

/** Return a count with its noun in singular or plural. */
export function countedText(number, one, many) {
  return `${countText(number)} ${number === 1 ? one : many}`;
}

/** Return a latitude or longitude with its hemisphere, e.g. "2.35° E". */
export function degreeText(degrees, [positive, negative], digits) {
  const text = Math.abs(degrees).toFixed(digits);
  const hemisphere = Number(text) === 0 ? "" : degrees > 0 ? ` ${positive}` : ` ${negative}`;
  return `${text}°${hemisphere}`;
}

/** Return a position, e.g. "48.8566° N, 2.3522° E". */
export function positionText(latitude, longitude) {
  return `${degreeText(latitude, "NS", 4)}, ${degreeText(longitude, "EW", 4)}`;
}

/** Return a duration (seconds) in a fitting unit. */
export function durationText(seconds) {
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : ageText(seconds);
}
