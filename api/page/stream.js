/** The stream of events of a group: read by fetch, as EventSource cannot send a key, and resumed. */

import { UNAVAILABLE, refusal } from "./requests.js";
import { createParser } from "./vendor/eventsource-parser/index.js";

const SILENCE_MS = 10_000; // a tick comes every second: ten missing ones are a dead connection
const HIDDEN_MS = 30_000; // browsers have six connections for all tabs of a host
const FIRST_BACKOFF_MS = 500;
const MOST_BACKOFF_MS = 15_000;

/** Why a stream ended, and when to come back. */
class EndedError extends Error {
  constructor(message, { unauthorized = false, retryAfterMs = 0 } = {}) {
    super(message);
    this.unauthorized = unauthorized;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The tab has been hidden for so long that it gave its stream up. */
class HiddenError extends Error {}

/**
 * Follow a group's events until told to stop; reconnect when they end, and when a tab that was
 * hidden is looked at again.
 * @param {{group: string, key: string, onEvent: function(string, object): void,
 *   onStatus: function({state: "connecting"|"live"|"waiting"|"unauthorized", reason?: string,
 *   retryAt?: number}): void}} options `retryAt` is in milliseconds of `performance.now()`.
 * @returns {function(): void} what stops it.
 */
export function follow({ group, key, onEvent, onStatus }) {
  const stopped = new AbortController();
  const run = async () => {
    let failures = 0;
    while (!stopped.signal.aborted) {
      await visible(stopped.signal);
      onStatus({ state: "connecting" });
      const live = () => {
        failures = 0;
        onStatus({ state: "live" });
      };
      const ended = await read(group, key, onEvent, live, stopped.signal).catch((error) => error);
      if (stopped.signal.aborted) return;
      if (ended instanceof HiddenError) continue;
      if (ended.unauthorized) return onStatus({ state: "unauthorized" });
      const waitMs = Math.max(backoffMs(failures++), ended.retryAfterMs ?? 0);
      const retryAt = performance.now() + waitMs;
      onStatus({ state: "waiting", reason: reasonOf(ended), retryAt });
      await pause(waitMs, stopped.signal, waitMs > (ended.retryAfterMs ?? 0));
    }
  };
  run();
  return () => stopped.abort();
}

/** Read one stream to its end, which is always an error. */
async function read(group, key, onEvent, onLive, stopped) {
  const silence = new AbortController();
  const hidden = hiddenFor(HIDDEN_MS, silence.signal);
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE_MS);
  };
  heard();
  try {
    const answer = await fetch(`/api/v1/live?${new URLSearchParams({ group_id: group })}`, {
      headers: { "X-API-Key": key },
      cache: "no-store",
      signal: AbortSignal.any([stopped, silence.signal, hidden]),
    });
    if (!answer.ok) throw await endOf(answer);
    const parser = createParser({
      onEvent: ({ event, data }) => {
        if (stopped.aborted) return;
        if (event === "bye") throw byeOf(JSON.parse(data).reason);
        onEvent(event, JSON.parse(data));
        if (event === "ready") onLive();
      },
    });
    const chunks = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let { done, value } = await chunks.read(); !done; { done, value } = await chunks.read()) {
      heard();
      parser.feed(value);
    }
    throw new EndedError("The connection was closed.");
  } catch (error) {
    throw hidden.aborted ? new HiddenError() : error;
  } finally {
    clearTimeout(timer);
    silence.abort(); // whatever is left of the answer
  }
}

async function endOf(answer) {
  const error = await refusal(answer);
  return new EndedError(error.message, {
    unauthorized: error.status === 401,
    retryAfterMs: 1000 * (Number(answer.headers.get("Retry-After")) || 0),
  });
}

function byeOf(reason) {
  if (reason === "unauthorized") return new EndedError("", { unauthorized: true });
  if (reason === "unavailable") return new EndedError(UNAVAILABLE);
  return new EndedError("The service is being stopped.");
}

function reasonOf(error) {
  if (error instanceof EndedError) return error.message;
  return error.name === "AbortError" ? "The service went silent." : "The service does not answer.";
}

/** Return a signal that is aborted once the tab has been hidden for so long, unless all is over. */
function hiddenFor(ms, over) {
  const hidden = new AbortController();
  let timer;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => hidden.abort(), ms);
  };
  look();
  document.addEventListener("visibilitychange", look, { signal: over });
  over.addEventListener("abort", () => clearTimeout(timer));
  return hidden.signal;
}

/** Wait until the tab is looked at. */
function visible(stopped) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const look = () => {
      if (document.hidden && !stopped.aborted) return;
      over.abort();
      resolve();
    };
    document.addEventListener("visibilitychange", look, { signal: over.signal });
    stopped.addEventListener("abort", look, { signal: over.signal });
    look();
  });
}

/** Spread out after the clamp, so that many pages do not come back at once. */
function backoffMs(failures) {
  const clamped = Math.min(FIRST_BACKOFF_MS * 2 ** failures, MOST_BACKOFF_MS);
  return clamped * (0.75 + Math.random() / 2);
}

/** Wait, but no longer than until the network is back, or if it is hasty the visitor. */
function pause(ms, stopped, isHasty) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const done = () => {
      over.abort();
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(done, ms);
    stopped.addEventListener("abort", done, { signal: over.signal });
    addEventListener("online", done, { signal: over.signal });
    const looked = () => document.hidden || !isHasty || done();
    document.addEventListener("visibilitychange", looked, { signal: over.signal });
  });
}
