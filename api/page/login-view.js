/** The sign-in form for an API key. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";

/**
 * Return the form.
 * @param {string} problem why the last key was denied; empty if it was not.
 * @param {boolean} busy a key is being checked.
 * @param {function(string): void} onKey
 */
export function loginView(problem, busy, onKey) {
  const submit = (event) => {
    event.preventDefault();
    onKey(event.target.elements.key.value.trim());
  };
  // Browsers offer to save password fields in a store that outlives the tab.
  return html`<main class="login">
    <form class="panel" @submit=${submit} autocomplete="off" aria-labelledby="login-title">
      <p class="mark" aria-hidden="true"><i class="dot online"></i><i class="dot idle"></i><i class="dot offline"></i></p>
      <h1 id="login-title">Fleet, live</h1>
      <label for="key">API key</label>
      <input
        id="key" name="key" class="secret" type="text" required autofocus
        autocomplete="off" autocapitalize="none" spellcheck="false"
        data-1p-ignore data-lpignore="true"
        aria-invalid=${problem ? "true" : "false"} aria-describedby="key-problem key-hint"
      >
      <p id="key-problem" class="problem" role="alert">${problem || nothing}</p>
      <button class="primary" ?disabled=${busy}>${busy ? "Signing in …" : "Sign in"}</button>
      <p id="key-hint" class="hint">
        The page shows what this key may read. The key is stored in this tab only, until you close it
        or sign out.
      </p>
    </form>
  </main>`;
}
