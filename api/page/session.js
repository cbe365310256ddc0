/** The API key: in this tab's sessionStorage, and nowhere else. */

const NAME = "api-key";

/** Return the key that this tab was given, or null. */
export function readKey() {
  return sessionStorage.getItem(NAME);
}

export function keepKey(key) {
  sessionStorage.setItem(NAME, key);
}

export function forgetKey() {
  sessionStorage.removeItem(NAME);
}

/** Return whether a text can be sent as a key at all: no header may carry what is not ASCII. */
export function canBeKey(text) {
  return /^[\x21-\x7e]+$/.test(text);
}
