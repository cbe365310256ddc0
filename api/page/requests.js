/** Requests that are answered at once: the groups, and where a device has been. */

export const UNAVAILABLE = "The service has no answer just now; its database may be away.";
const PATIENCE_MS = 10_000;
const WORDS = {
  unavailable: UNAVAILABLE,
  too_many_streams: "As much is being watched as the service allows.",
};

/** An answer that is no success, in words for the visitor. */
export class RefusedError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Ask the service.
 * @param {string} path with its query.
 * @param {string} key the API key.
 * @returns {Promise<object>} the JSON of the answer.
 * @throws {RefusedError} status 0: there was no answer.
 */
async function ask(path, key) {
  let answer;
  try {
    answer = await fetch(path, {
      headers: { "X-API-Key": key },
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.ok) return await answer.json();
  } catch {
    throw new RefusedError(0, "The service does not answer.");
  }
  throw await refusal(answer);
}

/** Return the error that an answer stands for. */
export async function refusal(answer) {
  const said = await answer.json().catch(() => ({}));
  const words = WORDS[said.error] ?? said.message ?? `The service answers ${answer.status}.`;
  return new RefusedError(answer.status, words);
}

/** Return the groups that the key may see. */
export async function listGroups(key) {
  return (await ask("/api/v1/groups", key)).groups;
}

/**
 * Return reports of a device's position, newest first. This touches the key, not the device.
 * @param {number} [before] only those captured before, in epoch milliseconds.
 */
export async function listReports(key, deviceId, limit, before) {
  const query = new URLSearchParams({ device_id: deviceId, limit });
  if (before !== undefined) query.set("before", before);
  return (await ask(`/api/v1/locations?${query}`, key)).locations;
}
