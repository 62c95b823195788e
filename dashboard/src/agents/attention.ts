// Agents in the order in which they need somebody.

export type Listed = { id: string; name: string; status: string; lastFailure: string | null };

const RANK: Record<string, number> = {
  FAILED: 0,
  LOST: 1,
  PAUSED: 3,
  STOPPING: 4,
  STARTING: 5,
  BUSY: 6,
  IDLE: 7,
  CREATED: 8,
  STOPPED: 9,
};
/** Who waits for an answer comes after who has failed. */
const ASKING = 2;

export function rank(agent: Listed, asking: ReadonlySet<string>): number {
  const own = RANK[agent.status] ?? 10;
  return asking.has(agent.id) ? Math.min(own, ASKING) : own;
}

export function byAttention<Agent extends Listed>(agents: readonly Agent[], asking: ReadonlySet<string>): Agent[] {
  const natural = new Intl.Collator(undefined, { numeric: true });
  return [...agents].sort(
    (one, other) => rank(one, asking) - rank(other, asking) || natural.compare(one.name, other.name),
  );
}
