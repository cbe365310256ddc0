/** A device's track on a canvas; older parts are fainter. */

import { blank, drawGraticule, drawNothing } from "./canvas.js";
import { fit } from "./projection.js";

const MARGIN = 30;
const SHADES = 24; // number of strokes, each of one colour; one stroke per report would be slow

/** Draw reports, newest first; `loaded`: there are no others. */
export function drawTrack(canvas, reports, loaded) {
  const sheet = blank(canvas);
  const positions = reports.map(({ latitude, longitude }) => [latitude, longitude]);
  const projection = fit(positions, sheet.width, sheet.height, MARGIN);
  if (!projection) return drawNothing(sheet, loaded ? "No positions" : "");
  drawGraticule(sheet, projection);
  const places = positions.map(([lat, lon]) => [projection.x(lon), projection.y(lat)]).reverse();
  drawLine(sheet, places);
  const [x, y] = places.at(-1);
  const { pen, colour } = sheet;
  pen.beginPath();
  pen.arc(x, y, 6, 0, 2 * Math.PI);
  pen.fillStyle = colour("--accent");
  pen.fill();
  pen.lineWidth = 2;
  pen.strokeStyle = colour("--surface");
  pen.stroke();
}

function drawLine({ pen, width, colour }, places) {
  pen.lineWidth = 2.5;
  pen.lineJoin = "round";
  pen.strokeStyle = colour("--accent");
  const each = Math.max(1, Math.ceil((places.length - 1) / SHADES));
  for (let start = 0; start < places.length - 1; start += each) {
    const end = Math.min(start + each, places.length - 1);
    pen.globalAlpha = 0.15 + (0.85 * end) / (places.length - 1);
    pen.beginPath();
    for (let i = start; i < end; i += 1) {
      const [[fromX, fromY], [toX, toY]] = [places[i], places[i + 1]];
      if (Math.abs(toX - fromX) > width) continue; // crosses the edge of the map
      pen.moveTo(fromX, fromY);
      pen.lineTo(toX, toY);
    }
    pen.stroke();
  }
  pen.globalAlpha = 1;
}
