// Every screen and its address. Heavy screens are loaded when they are opened.
import { createRootRoute, createRoute, createRouter } from '@tanstack/react-router';
import { Overview } from '../overview/overview';
import { BrokenScreen } from './broken';
import { NotFound } from './not_found';
import { load, screen } from './screens';
import { Shell } from './shell';

// The gateway serves the same page at `/`.
if (location.pathname === '/') history.replaceState(null, '', '/ui/');

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound });

const text = (value: unknown): string | undefined => (typeof value === 'string' && value !== '' ? value : undefined);
const figure = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
const texts = (value: unknown): string[] | undefined => {
  const list = (Array.isArray(value) ? value : [value]).filter(
    (one): one is string => typeof one === 'string' && one !== '',
  );
  return list.length > 0 ? list : undefined;
};

export type TaskSearch = {
  view?: 'table';
  status?: string[];
  priority?: string[];
  swarm?: string;
  agent?: string;
  title?: string;
  kind?: string;
  label?: string;
  oldest?: boolean;
};
export type HostSearch = { by?: string; status?: string[] };
export type RebalanceSearch = { basis?: 'USED'; threshold?: number; hold?: number };
export type AgentSearch = { status?: string[]; name?: string; swarm?: string; skill?: string; view?: 'table' };
export type EventSearch = {
  kind?: string[];
  noun?: string[];
  stream?: string;
  task?: string;
  from?: string;
  at?: string;
};

const routes = [
  createRoute({ getParentRoute: () => root, path: '/', component: Overview }),
  createRoute({
    getParentRoute: () => root,
    path: '/tasks',
    validateSearch: (search): TaskSearch => ({
      view: search.view === 'table' ? 'table' : undefined,
      status: texts(search.status),
      priority: texts(search.priority),
      swarm: text(search.swarm),
      agent: text(search.agent),
      title: text(search.title),
      kind: text(search.kind),
      label: text(search.label),
      oldest: search.oldest === true ? true : undefined,
    }),
    component: screen(load.tasks, 'Tasks'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/tasks/$task',
    validateSearch: (search): { tab?: string; attempt?: number } => ({
      tab: text(search.tab),
      attempt: typeof search.attempt === 'number' ? search.attempt : undefined,
    }),
    component: screen(load.task, 'TaskPage'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/agents',
    validateSearch: (search): AgentSearch => ({
      status: texts(search.status),
      name: text(search.name),
      swarm: text(search.swarm),
      skill: text(search.skill),
      view: search.view === 'table' ? 'table' : undefined,
    }),
    component: screen(load.agents, 'Agents'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/agents/$agent',
    validateSearch: (search): { tab?: string } => ({ tab: text(search.tab) }),
    component: screen(load.agent, 'AgentPage'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/approvals',
    component: screen(load.approvals, 'Approvals'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/tree',
    validateSearch: (search): { node?: string; find?: string; actor?: string } => ({
      node: text(search.node),
      find: text(search.find),
      actor: text(search.actor),
    }),
    component: screen(load.tree, 'Tree'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/swarms',
    component: screen(load.swarms, 'Swarms'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/swarms/$swarm',
    component: screen(load.swarm, 'SwarmPage'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/hosts',
    validateSearch: (search): HostSearch => ({ by: text(search.by), status: texts(search.status) }),
    component: screen(load.hosts, 'Hosts'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/hosts/$host',
    component: screen(load.host, 'HostPage'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/vms/$vm',
    validateSearch: (search): { console?: true } => ({ console: search.console === true || undefined }),
    component: screen(load.vm, 'VmPage'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/rebalance',
    validateSearch: (search): RebalanceSearch => ({
      basis: search.basis === 'USED' ? 'USED' : undefined,
      threshold: figure(search.threshold),
      hold: figure(search.hold),
    }),
    component: screen(load.rebalance, 'Rebalance'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/networks',
    component: screen(load.networks, 'Networks'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/networks/$network',
    component: screen(load.network, 'NetworkPage'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/backups',
    validateSearch: (search): { in?: string } => ({ in: text(search.in) }),
    component: screen(load.backups, 'Backups'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/cluster',
    component: screen(load.cluster, 'Cluster'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/events',
    validateSearch: (search): EventSearch => ({
      kind: texts(search.kind),
      noun: texts(search.noun),
      stream: text(search.stream),
      task: text(search.task),
      from: text(search.from),
      at: text(search.at),
    }),
    component: screen(load.events, 'Events'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/metrics',
    component: screen(load.metrics, 'Metrics'),
  }),
  createRoute({
    getParentRoute: () => root,
    path: '/spend',
    validateSearch: (search): { by?: string } => ({ by: text(search.by) }),
    component: screen(load.spend, 'Spend'),
  }),
] as const;

export const router = createRouter({
  routeTree: root.addChildren(routes),
  basepath: '/ui',
  defaultPreload: 'intent',
  defaultErrorComponent: ({ error }) => (
    <BrokenScreen error={error instanceof Error ? error : new Error(String(error))} />
  ),
  scrollRestoration: true,
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
