/** Requests of the JSON API: the groups, events, and the reports of a device. */

export const UNAVAILABLE = "The service is unavailable; it may not reach its database.";
const TIMEOUT_MS = 10_000;
const MAX_GROUPS = 20_000; // a page of the list has 1,000
const MESSAGES = {
  unavailable: UNAVAILABLE,
  too_many_streams: "The service has reached its limit of live streams.",
};

/** A response that is no success; the message is shown to the user. */
export class ResponseError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Send a GET request.
 * @param {string} path with its query.
 * @param {string} key the API key.
 * @returns {Promise<object>} the JSON of the response.
 * @throws {ResponseError} with status 0 if there was no response.
 */
async function ask(path, key) {
  let response;
  try {
    response = await fetch(path, {
      headers: { "X-API-Key": key },
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.ok) return await response.json();
  } catch {
    throw new ResponseError(0, "The service does not respond.");
  }
  throw await errorOf(response);
}

/** Return the error that a response describes. */
export async function errorOf(response) {
  const body = await response.json().catch(() => ({}));
  const message = MESSAGES[body.error] ?? body.message ?? `The service responds with ${response.status}.`;
  return new ResponseError(response.status, message);
}

/** Return the groups that the API key may read. */
export async function listGroups(key) {
  const groups = [];
  let cursor = null;
  do {
    const query = cursor === null ? "" : `?${new URLSearchParams({ cursor })}`;
    const page = await ask(`api/v1/groups${query}`, key);
    groups.push(...page.groups);
    cursor = page.next_cursor;
  } while (cursor !== null && groups.length < MAX_GROUPS);
  return groups;
}

/**
 * Return a page of stored events, oldest first.
 * @param {object} query parameters of the route.
 * @returns {Promise<{events: object[], next_cursor: string}>}
 */
export async function listEvents(key, query) {
  return ask(`api/v1/events?${new URLSearchParams(query)}`, key);
}

/**
 * Return reports of a device's position, newest first. This touches the API key, not the device.
 * @param {number} [before] only those captured before, in epoch milliseconds.
 */
export async function listReports(key, deviceId, limit, before) {
  const query = new URLSearchParams({ device_id: deviceId, limit });
  if (before !== undefined) query.set("before", before);
  return (await ask(`api/v1/locations?${query}`, key)).locations;
}
