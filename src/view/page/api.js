'use strict';

// Talking with the server. The token comes with the address once, and is kept out of the address bar, where it could be copied by mistake.

const windowName = newId().slice(0, 6);
const token = (() => {
  const given = new URLSearchParams(location.search).get('token');
  try {
    if (given) sessionStorage.setItem('epicker.token', given);
    history.replaceState(null, '', location.pathname);
    return given || sessionStorage.getItem('epicker.token') || '';
  } catch { return given || ''; }
})();

class ApiError extends Error {
  constructor(text, status) { super(text); this.status = status; }
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch('/api/' + path, { ...options, cache: 'no-store', headers: { 'X-Epicker-Token': token, ...(options.body ? { 'Content-Type': 'application/json' } : {}) } });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('the server does not answer', 0);
  }
  if (response.ok) return response;
  const text = await response.json().then((answer) => answer.error, () => null);
  throw new ApiError(text || `the server says ${response.status}`, response.status);
}
const get = async (path) => (await call(path)).json();
const post = async (path, body) => (await call(path, { method: 'POST', body: JSON.stringify(body) })).json();

/** For acts of the user: says in a toast what went wrong, and gives null. */
async function attempt(promise) {
  try { return await promise; } catch (error) { tell(error.message, 'error'); return null; }
}
