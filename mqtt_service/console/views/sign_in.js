// Signing in with e-mail and password.

import { html, useState } from '../vendor/preact-htm.js';
import { session, signIn } from '../session.js';
import { useStore } from '../store.js';

export function SignIn({ host }) {
  const { reason } = useStore(session);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const { email, password } = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    setError(null);
    try {
      await signIn(email.trim(), password);
    } catch (fault) {
      setError(fault);
      setBusy(false);
    }
  };
  return html`<main class="sign-in">
    <form onSubmit=${submit} aria-busy=${busy}>
      <img src="icon.svg" alt="" width="40" height="40" />
      <h1>Sign in</h1>
      <p class="hint">to the fleet of <strong>${host}</strong>, with your account of the project</p>
      ${(error || reason) && html`<p class="fault" role="alert">${error ? `${error.message} ${error.todo}` : reason}</p>`}
      <label>E-mail <input name="email" type="email" autocomplete="username" required autofocus /></label>
      <label>Password <input name="password" type="password" autocomplete="current-password" required /></label>
      <button class="primary" disabled=${busy}>${busy ? 'Signing in…' : 'Sign in'}</button>
    </form>
  </main>`;
}
