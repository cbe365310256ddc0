/** The map of last positions: one mark per listed device; a click opens the device. */

import { blank, drawGraticule, drawNothing } from "./canvas.js";
import { fit } from "./projection.js";

const MARGIN = 26;
const REACH = 14; // maximum distance in pixels between the pointer and a mark

/** A map on one canvas, to which it is bound when it is first shown. */
export class DeviceMap {
  #canvas = null;
  #snapshot = null;
  #located = [];
  #projection = null;
  #hovered = null;

  /** @param {{onOpen: function(object): void, onHover: function(?object, number, number): void}} on */
  constructor(on) {
    this.on = on;
    this.resized = new ResizeObserver(() => this.draw());
  }

  /** Show devices; the projection changes only if they leave it or no longer fill it. */
  show(canvas, snapshot, devices) {
    if (canvas !== this.#canvas) this.#bind(canvas);
    this.#snapshot = snapshot;
    this.#located = devices.filter((device) => device.location);
    this.draw();
  }

  /** Drop devices, projection and canvas. */
  forget() {
    this.resized.disconnect();
    this.#canvas = this.#snapshot = this.#projection = this.#hovered = null;
    this.#located = [];
  }

  draw() {
    if (!this.#canvas?.isConnected || !this.#snapshot) return;
    const sheet = blank(this.#canvas);
    this.#aim(sheet.width, sheet.height);
    if (!this.#projection) return drawNothing(sheet, "No positions");
    drawGraticule(sheet, this.#projection);
    const byState = { never: [], offline: [], idle: [], online: [] };
    for (const device of this.#located) byState[device.presence].push(device);
    const size = this.#located.length > 2000 ? 2 : this.#located.length > 400 ? 3 : 4;
    for (const [state, devices] of Object.entries(byState)) {
      this.#marks(sheet, state, devices, size);
    }
    if (this.#hovered?.location) this.#ring(sheet, this.#hovered);
  }

  #aim(width, height) {
    const positions = this.#located.map((device) => device.location);
    const fresh = fit(positions, width, height, MARGIN);
    if (fresh && this.#projection?.suits(fresh, positions, MARGIN / 2)) return;
    this.#projection = fresh;
  }

  /** Draw each device by copying the mark of its state: ten thousand paths would be slow. */
  #marks({ pen, colour }, state, devices, size) {
    const ratio = window.devicePixelRatio || 1;
    const stamp = mark(state, colour(`--${state}`), size, ratio);
    const side = stamp.width / ratio;
    const sharp = (middle) => Math.round((middle - side / 2) * ratio) / ratio;
    for (const { location } of devices) {
      const [x, y] = this.#place(location);
      pen.drawImage(stamp, sharp(x), sharp(y), side, side);
    }
  }

  #ring({ pen, colour }, { location }) {
    const [x, y] = this.#place(location);
    pen.beginPath();
    pen.arc(x, y, 9, 0, 2 * Math.PI);
    pen.lineWidth = 2;
    pen.strokeStyle = colour("--text");
    pen.stroke();
  }

  #place([latitude, longitude]) {
    return [this.#projection.x(longitude), this.#projection.y(latitude)];
  }

  #bind(canvas) {
    this.resized.disconnect();
    this.#canvas = canvas;
    this.#hovered = null;
    this.resized.observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.#hover(this.#at(event), event));
    canvas.addEventListener("pointerleave", (event) => this.#hover(null, event));
    canvas.addEventListener("click", (event) => {
      const device = this.#at(event);
      if (device) this.on.onOpen(device);
    });
  }

  #hover(device, event) {
    if (device !== this.#hovered) {
      this.#hovered = device;
      this.#canvas.classList.toggle("pointing", device !== null);
      this.draw();
    }
    this.on.onHover(device, event.offsetX, event.offsetY);
  }

  #at({ offsetX, offsetY }) {
    if (!this.#projection) return null;
    let nearest = null;
    let least = REACH ** 2;
    for (const device of this.#located) {
      const [x, y] = this.#place(device.location);
      const distance = (x - offsetX) ** 2 + (y - offsetY) ** 2;
      if (distance < least) {
        least = distance;
        nearest = device;
      }
    }
    return nearest;
  }
}

/** Return a state's mark: disc, ring, diamond or dash, so that states differ without colours. */
function mark(state, colour, size, ratio) {
  const stamp = document.createElement("canvas");
  stamp.width = stamp.height = Math.ceil(2 * (size + 2) * ratio);
  const pen = stamp.getContext("2d");
  pen.translate(stamp.width / 2, stamp.width / 2);
  pen.scale(ratio, ratio);
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = 1.5;
  pen.beginPath();
  if (state === "never") {
    pen.moveTo(-size, 0);
    pen.lineTo(size, 0);
  } else if (state === "offline") {
    for (const [x, y] of [[0, -size], [size, 0], [0, size], [-size, 0]]) pen.lineTo(x, y);
    pen.closePath();
  } else {
    pen.arc(0, 0, size, 0, 2 * Math.PI);
  }
  if (state === "online") pen.fill();
  else pen.stroke();
  return stamp;
}
