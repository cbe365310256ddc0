/** An equirectangular projection that is fitted to positions, also across the antimeridian. */

const LEAST_SPAN_DEGREES = 0.01; // about a kilometre: a single position has no extent of its own
const STEPS = [
  60, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002,
];
const METRES_PER_DEGREE = 111_320;

/**
 * Return the shortest stretch of the equator that has all longitudes on it, which may cross the
 * antimeridian: what is left of the circle when its widest gap is taken out.
 * @returns {{west: number, span: number}} degrees.
 */
export function shortestArc(longitudes) {
  const sorted = Float64Array.from(longitudes).sort();
  const last = sorted.length - 1;
  let west = sorted[0];
  let gap = sorted[0] + 360 - sorted[last];
  for (let i = 1; i <= last; i += 1) {
    if (sorted[i] - sorted[i - 1] > gap) {
      gap = sorted[i] - sorted[i - 1];
      west = sorted[i];
    }
  }
  return { west, span: 360 - gap };
}

/** Normalize an angle to -180..180 degrees. */
export function wrapped(degrees) {
  return ((((degrees + 180) % 360) + 360) % 360) - 180;
}

/**
 * Return a projection in which all positions fit; null if there is none.
 * @param {number[][]} positions latitude and longitude of each, in degrees.
 * @param {number} width in pixels, like all that follows.
 */
export function fit(positions, width, height, margin) {
  if (!positions.length || width <= 2 * margin || height <= 2 * margin) return null;
  let south = 90;
  let north = -90;
  for (const [latitude] of positions) {
    south = Math.min(south, latitude);
    north = Math.max(north, latitude);
  }
  const arc = shortestArc(positions.map(([, longitude]) => longitude));
  const latitude = (south + north) / 2;
  const longitude = wrapped(arc.west + arc.span / 2);
  // Degrees of longitude shrink towards the poles; at the poles they would be zero.
  const shrink = Math.max(0.1, Math.cos((latitude * Math.PI) / 180));
  const across = Math.max(arc.span, LEAST_SPAN_DEGREES / shrink) * shrink;
  const up = Math.max(north - south, LEAST_SPAN_DEGREES);
  const scale = Math.min((width - 2 * margin) / across, (height - 2 * margin) / up);
  return new Projection({ latitude, longitude, shrink, scale, width, height });
}

/** Maps degrees to pixels. */
class Projection {
  constructor(values) {
    Object.assign(this, values);
  }

  x(longitude) {
    return this.width / 2 + wrapped(longitude - this.longitude) * this.shrink * this.scale;
  }

  y(latitude) {
    return this.height / 2 - (latitude - this.latitude) * this.scale;
  }

  /** Return whether this projection still fits positions that another one was fitted to. */
  suits(fresh, positions, margin) {
    if (this.width !== fresh.width || this.height !== fresh.height) return false;
    if (fresh.scale > 1.6 * this.scale) return false;
    return positions.every(([latitude, longitude]) => {
      const x = this.x(longitude);
      const y = this.y(latitude);
      return x >= margin && x <= this.width - margin && y >= margin && y <= this.height - margin;
    });
  }

  /** Return lines of latitude and longitude, at least `pixels` apart. */
  graticule(apart) {
    const halfLatitude = this.height / 2 / this.scale;
    const halfLongitude = Math.min(180, this.width / 2 / this.scale / this.shrink);
    return {
      parallels: lines(
        Math.max(-90, this.latitude - halfLatitude),
        Math.min(90, this.latitude + halfLatitude),
        step(apart / this.scale),
      ),
      meridians: lines(
        this.longitude - halfLongitude,
        this.longitude + halfLongitude,
        step(apart / this.scale / this.shrink),
      ).map((line) => ({ ...line, degrees: wrapped(line.degrees) })),
    };
  }

  /** Return the longest round distance that fits into the given pixels. */
  scaleBar(widest) {
    const pixelsPerMetre = this.scale / METRES_PER_DEGREE;
    const power = 10 ** Math.floor(Math.log10(widest / pixelsPerMetre));
    const metres = power * [5, 2, 1].find((factor) => factor * power * pixelsPerMetre <= widest);
    return { metres, pixels: metres * pixelsPerMetre };
  }
}

/** Return the smallest step that is at least this large. */
function step(degrees) {
  return STEPS.findLast((one) => one >= degrees) ?? STEPS[0];
}

function lines(from, to, every) {
  const digits = Math.max(0, Math.ceil(-Math.log10(every) - 1e-9));
  const found = [];
  for (let i = Math.ceil(from / every); i * every <= to; i += 1) {
    found.push({ degrees: i * every, digits });
  }
  return found;
}
