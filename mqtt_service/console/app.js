// The console: the frame around the views, and which one is open.

import { html, render, useEffect, useRef, useState } from './vendor/preact-htm.js';
import { reachable } from './api.js';
import { config, readConfig } from './config.js';
import { focusSearch, useKeys } from './keyboard.js';
import { how, lookNow } from './live.js';
import { go, link, route } from './route.js';
import { openProject, session, signOut } from './session.js';
import { useStore } from './store.js';
import { cut } from './format.js';
import { Dialog, Questions } from './components/dialog.js';
import { Failed, Loading } from './components/states.js';
import { Toasts } from './components/toasts.js';
import { VIEWS } from './views/index.js';
import { SignIn } from './views/sign_in.js';

const KEYS = [['/', 'search'], ['j, k', 'down, up'], ['enter', 'open'], ['x', 'select'], ['n', 'new command'],
  ...VIEWS.map(({ key, title }) => [`g then ${key}`, title]), ['esc', 'close a dialog, leave the search'], ['?', 'this help']];
const GO_MS = 1500; // from g to the letter

function App({ project }) {
  const { state } = useStore(session);
  if (state === 'out') return html`<${SignIn} host=${new URL(project.supabase_url).host} /><${Toasts} />`;
  if (state !== 'in') {
    const words = state === 'waiting' ? 'The project does not answer. Trying again…' : 'Starting…';
    return html`<p class="starting" role="status">${words}</p>`;
  }
  return html`<${Frame} />`;
}

function Frame() {
  const { view, parts, params } = useStore(route);
  const [help, setHelp] = useState(false);
  const open = VIEWS.find((one) => one.path === view) ?? VIEWS[0];
  useEffect(() => { if (open.path !== view) go(link(open.path), { replace: true }); }, [view]);
  useEffect(() => {
    document.title = `${open.title} · Console`;
    document.querySelector('header nav [aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }, [open]);
  useGoKeys();
  useKeys({ '/': focusSearch, '?': () => setHelp(true), n: () => go(link('commands/new')) });
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById('main').focus(); }}>To the content</a>
    <header class="top">
      <a class="home" href=${link('now')} aria-label="Console, to the start"><img src="icon.svg" alt="" width="24" height="24" /></a>
      <nav aria-label="Views">${VIEWS.map((one) => html`<a key=${one.path} href=${link(one.path)}
        aria-current=${one === open ? 'page' : undefined}>${one.title}</a>`)}</nav>
      <${Status} />
      <${Account} onHelp=${() => setHelp(true)} />
    </header>
    <${Unreachable} />
    <main id="main" tabindex="-1"><${View} key=${open.path} view=${open} parts=${parts} params=${params} /></main>
    ${help && html`<${Help} onClose=${() => setHelp(false)} />`}
    <${Questions} /><${Toasts} />`;
}

function useGoKeys() {
  const armed = useRef(0);
  const keys = { g: () => { armed.current = Date.now(); } };
  for (const { key, path } of VIEWS) {
    keys[key] = (event) => {
      if (Date.now() - armed.current > GO_MS) return;
      armed.current = 0;
      event.preventDefault(); // on its own, the letter may mean something else
      go(link(path));
    };
  }
  useKeys(keys);
}

function View({ view, parts, params }) {
  const [state, setState] = useState({});
  const load = () => view.load().then((module) => setState({ Body: module.default }), () => setState({
    error: { message: 'This view could not be fetched.', todo: 'Check the network, then try again.' } }));
  useEffect(() => { load(); }, [view]);
  if (state.error) return html`<${Failed} error=${state.error} retry=${load} />`;
  return state.Body ? html`<${state.Body} parts=${parts} params=${params} />` : html`<${Loading} />`;
}

function Status() {
  const words = useStore(how) === 'realtime'
    ? ['live', 'Live', 'Changes arrive by Realtime, as they happen.']
    : ['polling', 'Polling', 'Realtime is silent: the console looks every few seconds.'];
  return html`<span class=${`live ${words[0]}`} role="status" title=${words[2]}>${words[1]}</span>`;
}

function Unreachable() {
  if (useStore(reachable)) return null;
  return html`<div class="banner" role="alert">The project does not answer. What you see may be old; the console tries
    again by itself. <button onClick=${lookNow}>Try now</button></div>`;
}

function Account({ onHelp }) {
  const { user, roles, companies } = useStore(session);
  const places = [...roles].map(([company, role]) => `${role} of ${cut(companies.get(company) ?? 'a company', 40)}`);
  return html`<details class="account">
    <summary>${cut(user.email, 28)}<span class="visually-hidden">: account and settings</span></summary>
    <div class="menu">
      <p class="hint">${places.join(', ') || 'No company has let you in yet: ask an admin to add you to company_members.'}</p>
      <${Theme} />
      <button onClick=${onHelp}>Keys</button>
      <button onClick=${() => signOut(true)}>Sign out</button>
      <button onClick=${() => signOut()}>Sign out everywhere</button>
    </div>
  </details>`;
}

function Theme() {
  const [theme, setTheme] = useState(localStorage.getItem('mqtt-console-theme') ?? '');
  const choose = (event) => {
    const chosen = event.target.value;
    localStorage.setItem('mqtt-console-theme', chosen);
    document.documentElement.dataset.theme = chosen;
    setTheme(chosen);
  };
  return html`<label>Colours <select value=${theme} onChange=${choose}>
    <option value="">as the system</option><option value="light">light</option><option value="dark">dark</option>
  </select></label>`;
}

function Help({ onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose}><dl class="keys">
    ${KEYS.map(([key, what]) => html`<dt><kbd>${key}</kbd></dt><dd>${what}</dd>`)}</dl></${Dialog}>`;
}

async function start() {
  const page = document.getElementById('app');
  document.documentElement.dataset.theme = localStorage.getItem('mqtt-console-theme') ?? '';
  page.textContent = '';
  try {
    config.set(await readConfig());
    render(html`<${App} project=${config.get()} />`, page);
    await openProject(config.get());
  } catch (error) {
    render(html`<main class="sign-in"><${Failed} error=${{ message: 'The console cannot start.', todo: error.message }} /></main>`, page);
  }
}

start();
