// The token of this tab. It is sent to our own origin only, and never in a URL.
// sessionStorage forgets it with the tab; only who asks for it has it kept in localStorage.
import { useSyncExternalStore } from 'react';

const KEY = 'hiveward-token';

type Session = { token: string; refused?: string };

let session: Session = { token: read() };
const listeners = new Set<() => void>();

function read(): string {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? '';
}

function change(next: Session): void {
  session = next;
  for (const listener of listeners) listener();
}

export function token(): string {
  return session.token;
}

export function signIn(value: string, keep: boolean): void {
  sessionStorage.setItem(KEY, value);
  if (keep) localStorage.setItem(KEY, value);
  else localStorage.removeItem(KEY);
  change({ token: value });
}

/** `why` is shown on the sign-in page, when it was not the person who wanted to leave. */
export function signOut(why?: string): void {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
  if (session.token !== '' || why !== session.refused) change({ token: '', refused: why });
}

export function onSession(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useSession(): Session {
  return useSyncExternalStore(onSession, () => session);
}
