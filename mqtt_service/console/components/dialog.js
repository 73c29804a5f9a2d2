// Dialogs: the browser's own, which keep the focus inside and close with Escape.

import { html, useEffect, useRef, useState } from '../vendor/preact-htm.js';
import { makeStore, useStore } from '../store.js';

const asked = makeStore(null);
let number = 0; // of a dialog: a question may stand above another one

/**
 * Asks before something is done.
 * @param {{title: string, text: string, action: string, danger?: boolean}} question
 *   text: what will happen and how many devices it concerns; action: the words on the button
 * @returns {Promise<boolean>}
 */
export function askFirst(question) {
  return new Promise((resolve) => asked.set({ ...question, resolve }));
}

/** Where questions appear; once in the page. */
export function Questions() {
  const question = useStore(asked);
  if (!question) return null;
  const end = (agreed) => { asked.set(null); question.resolve(agreed); };
  return html`<${Dialog} title=${question.title} onClose=${() => end(false)}>
    <p>${question.text}</p>
    <div class="buttons">
      <button onClick=${() => end(false)}>Keep as it is</button>
      <button class=${question.danger ? 'danger' : 'primary'} autofocus onClick=${() => end(true)}>${question.action}</button>
    </div>
  </${Dialog}>`;
}

/** @param {{title: string, onClose: () => void, children: any, wide?: boolean}} props */
export function Dialog({ title, onClose, children, wide }) {
  const element = useRef();
  const [id] = useState(() => `dialog-title-${number += 1}`);
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${element} class=${wide ? 'wide' : ''} aria-labelledby=${id}
    onClose=${onClose}
    onClick=${(event) => event.target === element.current && onClose()}>
    <div class="dialog-body">
      <header><h2 id=${id}>${title}</h2>
        <button class="quiet" aria-label="Close" onClick=${onClose}>×</button></header>
      ${children}
    </div>
  </dialog>`;
}
