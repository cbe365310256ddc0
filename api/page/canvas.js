/** Drawing shared by maps and tracks: a canvas at the resolution of the screen, and its graticule. */

import { degreeText } from "./formatting.js";

const LINES_APART = 84;

/**
 * Clear a canvas and return its context, scaled to CSS pixels.
 * @returns {{pen: CanvasRenderingContext2D, width: number, height: number,
 *   colour: function(string): string}} `colour` gives a custom property of the style sheet.
 */
export function blank(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  pen.font = `11px ${style.fontFamily}`;
  return { pen, width, height, colour: (name) => style.getPropertyValue(name).trim() };
}

/** Draw lines of latitude and longitude with their degrees, and a scale bar. */
export function drawGraticule({ pen, width, height, colour }, projection) {
  const { parallels, meridians } = projection.graticule(LINES_APART);
  pen.lineWidth = 1;
  pen.strokeStyle = colour("--grid");
  pen.beginPath();
  for (const { degrees } of parallels) {
    const y = crisp(projection.y(degrees));
    pen.moveTo(0, y);
    pen.lineTo(width, y);
  }
  for (const { degrees } of meridians) {
    const x = crisp(projection.x(degrees));
    pen.moveTo(x, 0);
    pen.lineTo(x, height);
  }
  pen.stroke();
  pen.fillStyle = colour("--muted");
  pen.textAlign = "left";
  pen.textBaseline = "bottom";
  for (const { degrees, digits } of parallels) {
    const y = projection.y(degrees);
    if (y > 34 && y < height - 34) pen.fillText(degreeText(degrees, "NS", digits), 6, y - 2);
  }
  pen.textBaseline = "top";
  for (const { degrees, digits } of meridians) {
    const x = projection.x(degrees);
    if (x > 56 && x < width - 50) pen.fillText(degreeText(degrees, "EW", digits), x + 4, 6);
  }
  drawScaleBar(pen, height, projection, colour);
}

/** Draw a text instead of a map. */
export function drawNothing({ pen, width, height, colour }, text) {
  pen.fillStyle = colour("--muted");
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(text, width / 2, height / 2);
}

function drawScaleBar(pen, height, projection, colour) {
  const { metres, pixels } = projection.scaleBar(90);
  const y = crisp(height - 10);
  pen.strokeStyle = colour("--muted");
  pen.beginPath();
  pen.moveTo(8.5, y - 5);
  pen.lineTo(8.5, y);
  pen.lineTo(crisp(8 + pixels), y);
  pen.lineTo(crisp(8 + pixels), y - 5);
  pen.stroke();
  pen.textBaseline = "bottom";
  const text = metres >= 1000 ? `${(metres / 1000).toLocaleString("en")} km` : `${metres} m`;
  pen.fillText(text, 13, y - 2);
}

function crisp(pixels) {
  return Math.round(pixels) + 0.5;
}
