// Tasks of these states, over these swarms.
export function counted(
  swarms: readonly { taskCounts: readonly { status: string; count: number }[] }[],
  ...statuses: string[]
): number {
  return swarms.reduce(
    (total, swarm) =>
      total + swarm.taskCounts.reduce((all, each) => all + (statuses.includes(each.status) ? each.count : 0), 0),
    0,
  );
}
