// Short words about what was done; they go by themselves. Told to screen readers as they come.
import { useSyncExternalStore } from 'react';

const SHOWN_MS = 4_500;
const SHOWN_MAX = 4;

type Toast = { id: number; text: string };

let toasts: Toast[] = [];
let made = 0;
const listeners = new Set<() => void>();

function change(next: Toast[]): void {
  toasts = next;
  for (const listener of [...listeners]) listener();
}

export function toast(text: string): void {
  made += 1;
  const id = made;
  change([...toasts, { id, text }].slice(-SHOWN_MAX));
  setTimeout(() => change(toasts.filter((each) => each.id !== id)), SHOWN_MS);
}

export function Toasts() {
  const shown = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => toasts,
  );
  return (
    <div className="toasts" role="status">
      {shown.map(({ id, text }) => (
        <div key={id} className="toast">
          {text}
        </div>
      ))}
    </div>
  );
}
