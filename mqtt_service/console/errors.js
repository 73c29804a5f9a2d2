// Every error in words, with what to do about it.

/** An error for people: `message` says what happened, `todo` what to do; `kind` is 'network', 'session' or 'refused'. */
export class ConsoleError extends Error {
  constructor(message, todo, kind = 'refused', code = '') {
    super(message);
    this.todo = todo;
    this.kind = kind;
    this.code = code;
  }
}

const BY_CODE = {
  42501: ['Your role does not allow this.', 'Ask an admin of the company for the role you need.'],
  23505: ['This is there already.', 'Look at the list again: somebody may have been faster.'],
  23503: ['What this refers to is gone.', 'Reload the view and choose again.'],
  57014: ['The project took too long to answer.', 'Ask for less: narrow the filter, then try again.'],
  PGRST116: ['It is not there, or not yours to see.', 'Check the link, or ask an admin of its company.'],
  PGRST202: ['The project’s database is older than this console.', 'Apply the newest migrations: mqtt-service migrations.'],
  PGRST204: ['The project’s database is older than this console.', 'Apply the newest migrations: mqtt-service migrations.'],
  PGRST205: ['The project’s database is older than this console.', 'Apply the newest migrations: mqtt-service migrations.'],
  invalid_credentials: ['E-mail and password do not fit together.', 'Check both; an admin of the project can reset the password.'],
  over_request_rate_limit: ['Too many attempts.', 'Wait a minute, then try again.'],
  email_not_confirmed: ['This e-mail address is not confirmed yet.', 'Follow the link in the e-mail you were sent.'],
};

/**
 * What went wrong, for people.
 * @param {any} error of supabase-js: PostgREST's, Auth's, Storage's, or fetch's
 * @param {number} status of the HTTP answer; 0: none came
 * @returns {ConsoleError}
 */
export function inWords(error, status = error?.status ?? 0) {
  if (error instanceof ConsoleError) return error;
  const code = String(error?.code ?? '');
  const text = String(error?.message ?? error ?? '');
  if (isNetwork(error, status, text)) {
    return new ConsoleError('The project does not answer.', 'Nothing is lost: the console tries again by itself.', 'network');
  }
  if (status === 401 || code === 'PGRST301' || code === 'PGRST303' || code.startsWith('refresh_token') || code === 'session_not_found') {
    return new ConsoleError('Your session has ended.', 'Sign in again.', 'session', code);
  }
  if (BY_CODE[code]) return new ConsoleError(...BY_CODE[code], 'refused', code);
  if (status === 403) return new ConsoleError(...BY_CODE[42501], 'refused', '42501');
  if (status === 429) return new ConsoleError(...BY_CODE.over_request_rate_limit, 'refused', code);
  // The database's own rules speak to people already: what is wrong, and what to write instead.
  return new ConsoleError(text ? sentence(text) : 'Something went wrong.', error?.hint || 'Correct it and try again.', 'refused', code);
}

function isNetwork(error, status, text) {
  return status >= 500 || error?.name === 'AuthRetryableFetchError'
    || status === 0 && /fetch|network|load failed|abort|timed? ?out|json/i.test(`${error?.name} ${text}`);
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}
