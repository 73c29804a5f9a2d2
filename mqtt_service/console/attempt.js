// Doing what a person asked for, where it may fail.

import { sayError } from './components/toasts.js';

/** Does it, says what went wrong, and looks again. @returns {Promise<boolean>} whether it went well */
export async function attempt(doIt, lookAgain) {
  try {
    await doIt();
  } catch (error) {
    sayError(error);
    return false;
  } finally {
    await lookAgain();
  }
  return true;
}
