/** The event stream of a group: read by fetch, as EventSource cannot send headers, and reconnected. */

import { UNAVAILABLE, errorOf } from "./requests.js";
import { createParser } from "./vendor/eventsource-parser/index.js";

const TICK_TIMEOUT_MS = 10_000; // a tick comes every second: ten missing ticks mean a dead connection
const HIDDEN_MS = 30_000; // browsers have six connections for all tabs of a host
const BACKOFF_INITIAL_MS = 500;
const BACKOFF_MAX_MS = 15_000;

/** Why a stream ended, and when to reconnect. */
class EndedError extends Error {
  constructor(message, { unauthorized = false, retryAfterMs = 0 } = {}) {
    super(message);
    this.unauthorized = unauthorized;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The tab was hidden for HIDDEN_MS, so the stream was closed. */
class HiddenError extends Error {}

/**
 * Read a group's events until stopped. Reconnect when the stream ends, and when a hidden tab becomes
 * visible again.
 * @param {{group: string, key: string, onEvent: function(string, object): void,
 *   onStatus: function({state: "connecting"|"live"|"waiting"|"hidden"|"unauthorized", reason?: string,
 *   retryAt?: number}): void}} options `retryAt` is in milliseconds of `performance.now()`.
 * @returns {function(): void} stops it.
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
      if (ended instanceof HiddenError) {
        onStatus({ state: "hidden" });
        continue;
      }
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

/** Read one stream until it ends; always throws why. */
async function read(group, key, onEvent, onLive, stopped) {
  const timeout = new AbortController();
  const hidden = hiddenFor(HIDDEN_MS, timeout.signal);
  let timer;
  const resetTimer = () => {
    clearTimeout(timer);
    timer = setTimeout(() => timeout.abort(), TICK_TIMEOUT_MS);
  };
  resetTimer();
  try {
    const response = await fetch(`api/v1/live?${new URLSearchParams({ group_id: group })}`, {
      headers: { "X-API-Key": key },
      cache: "no-store",
      signal: AbortSignal.any([stopped, timeout.signal, hidden]),
    });
    if (!response.ok) throw await endOf(response);
    const parser = createParser({
      onEvent: ({ event, data }) => {
        if (stopped.aborted) return;
        if (event === "bye") throw byeOf(JSON.parse(data).reason);
        onEvent(event, JSON.parse(data));
        if (event === "ready") onLive();
      },
    });
    const chunks = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let { done, value } = await chunks.read(); !done; { done, value } = await chunks.read()) {
      resetTimer();
      parser.feed(value);
    }
    throw new EndedError("The connection was closed.");
  } catch (error) {
    throw hidden.aborted ? new HiddenError() : error;
  } finally {
    clearTimeout(timer);
    timeout.abort(); // stops reading the rest of the response
  }
}

async function endOf(response) {
  const error = await errorOf(response);
  return new EndedError(error.message, {
    unauthorized: error.status === 401,
    retryAfterMs: 1000 * (Number(response.headers.get("Retry-After")) || 0),
  });
}

function byeOf(reason) {
  if (reason === "unauthorized") return new EndedError("", { unauthorized: true });
  if (reason === "unavailable") return new EndedError(UNAVAILABLE);
  return new EndedError("The service is shutting down.");
}

function reasonOf(error) {
  if (error instanceof EndedError) return error.message;
  return error.name === "AbortError" ? "The service has stopped sending data." : "The service does not respond.";
}

/** Return a signal that aborts once the tab has been hidden for `ms`, unless `over` aborts first. */
function hiddenFor(ms, over) {
  const hidden = new AbortController();
  let timer;
  const check = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => hidden.abort(), ms);
  };
  check();
  document.addEventListener("visibilitychange", check, { signal: over });
  over.addEventListener("abort", () => clearTimeout(timer));
  return hidden.signal;
}

/** Wait until the tab is visible. */
function visible(stopped) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const check = () => {
      if (document.hidden && !stopped.aborted) return;
      over.abort();
      resolve();
    };
    document.addEventListener("visibilitychange", check, { signal: over.signal });
    stopped.addEventListener("abort", check, { signal: over.signal });
    check();
  });
}

/** Jitter after the clamp, so that many pages do not reconnect at once. */
function backoffMs(failures) {
  const clamped = Math.min(BACKOFF_INITIAL_MS * 2 ** failures, BACKOFF_MAX_MS);
  return clamped * (0.75 + Math.random() / 2);
}

/** Wait; end early when the network is back or, if `endsOnReturn`, when the tab becomes visible. */
function pause(ms, stopped, endsOnReturn) {
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
    const returned = () => document.hidden || !endsOnReturn || done();
    document.addEventListener("visibilitychange", returned, { signal: over.signal });
  });
}
