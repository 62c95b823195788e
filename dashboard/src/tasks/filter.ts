// What the tasks screen is asked to show, as its address has it, and as the API takes it.
import type { TaskSearch } from '../app/router';
import type { FeedEvent } from '../live/feed';
import type { graphql } from '../live/graphql';

export type TaskFilter = ReturnType<typeof graphql.scalar<'TaskFilter'>>;
export type TaskStatus = ReturnType<typeof graphql.scalar<'TaskStatus'>>;
export type Priority = ReturnType<typeof graphql.scalar<'Priority'>>;

export const STATUSES: TaskStatus[] = [
  'PENDING',
  'QUEUED',
  'RETRYING',
  'ASSIGNED',
  'RUNNING',
  'VERIFYING',
  'SUCCEEDED',
  'FAILED',
  'DEAD',
  'CANCELLED',
];
export const PRIORITIES: Priority[] = ['CRITICAL', 'HIGH', 'NORMAL', 'LOW'];

const LIVE: readonly TaskStatus[] = ['PENDING', 'QUEUED', 'RETRYING', 'ASSIGNED', 'RUNNING', 'VERIFYING'];

export function ended(status: TaskStatus): boolean {
  return !LIVE.includes(status);
}

/** `key=value` pairs, a space between them; what has no `=` is left out. */
export function labels(text: string | undefined): { key: string; value: string }[] {
  return (text ?? '').split(/\s+/).flatMap((pair) => {
    const at = pair.indexOf('=');
    return at > 0 ? [{ key: pair.slice(0, at), value: pair.slice(at + 1) }] : [];
  });
}

export function taskFilter(search: TaskSearch): TaskFilter {
  const known = <T extends string>(asked: string[] | undefined, all: readonly T[]) => {
    const found = all.filter((one) => asked?.includes(one));
    return found.length > 0 ? found : undefined;
  };
  const label = labels(search.label);
  return {
    status: known(search.status, STATUSES),
    priority: known(search.priority, PRIORITIES),
    swarm: search.swarm,
    agent: search.agent,
    titleContains: search.title,
    kind: search.kind,
    label: label.length > 0 ? label : undefined,
  };
}

/** Whether an event may change a list of tasks. */
export function touchesTasks(event: FeedEvent): boolean {
  return event.task !== null || event.kind.startsWith('Task');
}
