// The pictures that the documentation has; `make screenshots` makes them.
const BOTH = [
  'overview',
  'tasks',
  'task',
  'task-activity',
  'agents',
  'agent-terminal',
  'approvals',
  'supervision-actor',
  'swarm',
  'hosts',
  'vm',
  'cluster',
  'metrics',
];

export const DOCUMENTED = [
  ...BOTH.flatMap((name) => [`${name}-dark`, `${name}-light`]),
  'overview-phone',
  'task-phone',
  'hosts-phone',
];
