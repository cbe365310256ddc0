/** A current value with a small chart of its last five minutes. */

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";
import { KEPT_S } from "./tracker-stats.js";

const [WIDTH, HEIGHT] = [KEPT_S, 36];

/**
 * Return the value, its chart, and a text for screen readers.
 * @param {string} label
 * @param {?number[]} values one a second, the latest last; null is a gap.
 * @param {function(number): string} text formats a value.
 * @param {number} [least] minimum of the upper end of the scale.
 */
export function sparkline(label, values, text, least = 0) {
  const known = values.filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const top = Math.max(high, least) || 1;
  const range = known.length ? `${text(low)} to ${text(high)}` : "no values yet";
  const now = values.at(-1) ?? null;
  return html`<div class="spark">
    <dt>${label}</dt>
    <dd>
      <span class="figure">${now === null ? "–" : text(now)}</span>
      <span class="unseen">, in the last five minutes ${range}</span>
      <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
        ${known.length ? line(values, top) : nothing}
      </svg>
    </dd>
  </div>`;
}

function line(values, top) {
  const start = WIDTH - values.length;
  const place = (value, i) => `${start + i},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
  const runs = [];
  let run = null;
  values.forEach((value, i) => {
    if (value === null) {
      run = null;
      return;
    }
    if (!run) runs.push((run = { from: start + i, points: [] }));
    run.to = start + i;
    run.points.push(place(value, i));
  });
  return runs.map(
    ({ from, to, points }) => svg`
      <path class="area" d="M${from},${HEIGHT} L${points.join(" ")} L${to},${HEIGHT} Z"></path>
      <path class="line" d="M${points.join(" ")}${points.length === 1 ? " h1" : ""}"></path>`,
  );
}
