/** The API key: stored only in this tab's sessionStorage. */

const NAME = "api-key";

/** Return the API key of this tab, or null. */
export function readKey() {
  return sessionStorage.getItem(NAME);
}

export function keepKey(key) {
  sessionStorage.setItem(NAME, key);
}

export function forgetKey() {
  sessionStorage.removeItem(NAME);
}

/** Return whether a text can be sent as a key: headers carry printable ASCII only. */
export function canBeKey(text) {
  return /^[\x21-\x7e]+$/.test(text);
}
