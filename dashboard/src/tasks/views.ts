// Views that a person saved, in this browser.
import type { TaskSearch } from '../app/router';

const KEY = 'hiveward-task-views';
export const VIEWS_MAX = 30;

export type SavedView = { name: string; search: TaskSearch };

export const BUILT_IN: SavedView[] = [
  { name: 'Dead letters', search: { view: 'table', status: ['DEAD'] } },
  { name: 'All failures', search: { view: 'table', status: ['FAILED', 'DEAD'] } },
  { name: 'Running now', search: { view: 'table', status: ['ASSIGNED', 'RUNNING', 'VERIFYING'] } },
  { name: 'Waiting', search: { view: 'table', status: ['PENDING', 'QUEUED', 'RETRYING'], oldest: true } },
];

export function savedViews(): SavedView[] {
  try {
    const read: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    if (!Array.isArray(read)) return [];
    return read
      .filter((view): view is SavedView => typeof view?.name === 'string' && typeof view?.search === 'object')
      .slice(0, VIEWS_MAX);
  } catch {
    return [];
  }
}

/** One of the same name is replaced; the oldest goes when there are too many. */
export function saveView(view: SavedView): SavedView[] {
  return write([...savedViews().filter(({ name }) => name !== view.name), view].slice(-VIEWS_MAX));
}

export function forgetView(name: string): SavedView[] {
  return write(savedViews().filter((view) => view.name !== name));
}

function write(views: SavedView[]): SavedView[] {
  localStorage.setItem(KEY, JSON.stringify(views));
  return views;
}
