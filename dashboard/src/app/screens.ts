// The screens as files of their own, fetched when they are opened, or ahead.
import { type ComponentType, createElement, lazy, type ReactNode, Suspense } from 'react';

/** Without the screens' own types, which hang on the routes' again. */
function of(fetch: () => Promise<unknown>): () => Promise<Record<string, ComponentType>> {
  return fetch as () => Promise<Record<string, ComponentType>>;
}

export const load = {
  tasks: of(() => import('../tasks/tasks')),
  task: of(() => import('../tasks/task')),
  agents: of(() => import('../agents/agents')),
  agent: of(() => import('../agents/agent')),
  approvals: of(() => import('../approvals/approvals')),
  tree: of(() => import('../tree/tree')),
  swarms: of(() => import('../swarms/swarms')),
  swarm: of(() => import('../swarms/swarm')),
  hosts: of(() => import('../hosts/hosts')),
  host: of(() => import('../hosts/host')),
  rebalance: of(() => import('../hosts/rebalance')),
  vm: of(() => import('../vms/vm')),
  networks: of(() => import('../networks/networks')),
  network: of(() => import('../networks/network')),
  backups: of(() => import('../backups/backups')),
  cluster: of(() => import('../cluster/cluster')),
  events: of(() => import('../events/events')),
  metrics: of(() => import('../metrics/metrics')),
  spend: of(() => import('../usage/spend')),
};

/** Not the router's own: that loads the page again when a screen cannot be had, and a page whose node is away is lost then. */
export function screen(fetch: () => Promise<Record<string, ComponentType>>, name: string): () => ReactNode {
  const Lazy = lazy(async () => {
    const found = (await fetch())[name];
    if (!found) throw new Error(`there is no screen ${name}`);
    return { default: found };
  });
  return () => createElement(Suspense, { fallback: null }, createElement(Lazy));
}

/** What screens load when they need it, the largest last. */
const heavy = [
  of(() => import('../agents/terminal')),
  of(() => import('../vms/console')),
  of(() => import('../ui/graph')),
];

/** Fetches all screens one after the other, so that they can be opened when the node that served the page is gone. */
export async function fetchScreens(): Promise<void> {
  for (const fetch of [...Object.values(load), ...heavy]) await fetch().catch(() => {});
}
