// What a host's cell in the heat map says: how much of what it may give is promised, and how much its VMs really use.

export type HeatBy = 'cpu' | 'memory' | 'cpuUsed' | 'memoryUsed';

export const HEAT: { by: HeatBy; label: string; of: string }[] = [
  { by: 'cpu', label: 'CPU promised', of: 'of the CPUs that may be promised, with overcommit' },
  { by: 'memory', label: 'Memory promised', of: 'of the memory that may be promised, with overcommit' },
  { by: 'cpuUsed', label: 'CPU used', of: 'of the CPUs that are there, by what its hypervisor measured of its VMs' },
  {
    by: 'memoryUsed',
    label: 'Memory used',
    of: 'of the memory that is there, by what its hypervisor measured of its VMs',
  },
];

export type HeatHost = {
  id: string;
  capacity: { cpus: number; memoryBytes: number } | null;
  reserved: { cpus: number; memoryBytes: number; cpusMax: number; memoryBytesMax: number };
};

export type HeatVm = {
  id: string;
  status: string;
  host: { id: string } | null;
  usage: { cpuTimeNs: number | null; memoryBytes: number | null } | null;
};

/** CPU time of each VM at a moment. */
export type CpuTimes = { at: number; ns: Map<string, number> };

export function cpuTimes(vms: readonly HeatVm[], at: number): CpuTimes {
  const ns = new Map<string, number>();
  for (const { id, usage } of vms) if (usage?.cpuTimeNs != null) ns.set(id, usage.cpuTimeNs);
  return { at, ns };
}

/** CPUs that a VM used between two looks; nothing where either did not measure it, or it began anew between them. */
export function cpusUsed(id: string, before: CpuTimes | undefined, now: CpuTimes): number | undefined {
  const from = before?.ns.get(id);
  const to = now.ns.get(id);
  if (before === undefined || from === undefined || to === undefined || to < from || now.at <= before.at)
    return undefined;
  return (to - from) / ((now.at - before.at) * 1e6);
}

/** A share from 0 up; more than 1 is possible. Nothing where it was not measured. */
export function share(
  by: HeatBy,
  host: HeatHost,
  vms: readonly HeatVm[],
  cpus: (id: string) => number | undefined,
): number | undefined {
  const { reserved, capacity } = host;
  if (capacity === null) return undefined;
  if (by === 'cpu') return reserved.cpusMax > 0 ? reserved.cpus / reserved.cpusMax : undefined;
  if (by === 'memory') return reserved.memoryBytesMax > 0 ? reserved.memoryBytes / reserved.memoryBytesMax : undefined;
  const lives = vms.filter(({ host: its, status }) => its?.id === host.id && HAS_DOMAIN.has(status));
  const used = lives.map(({ id, usage }) => (by === 'cpuUsed' ? cpus(id) : (usage?.memoryBytes ?? undefined)));
  // One that was not measured would make the sum too small, and that is worse than none.
  if (used.some((each) => each === undefined)) return undefined;
  const sum = used.reduce<number>((all, each) => all + (each ?? 0), 0);
  return sum / (by === 'cpuUsed' ? capacity.cpus : capacity.memoryBytes);
}

const HAS_DOMAIN = new Set(['RUNNING', 'PAUSED', 'STOPPING', 'MIGRATING']);

/** Steps of the scale: cool, warm, hot, full. */
export function step(value: number | undefined): 'none' | '0' | '1' | '2' | '3' | '4' {
  if (value === undefined) return 'none';
  if (value <= 0) return '0';
  if (value < 0.5) return '1';
  if (value < 0.75) return '2';
  if (value < 0.9) return '3';
  return '4';
}

export function percent(value: number): string {
  const scaled = value * 100;
  return `${scaled > 0 && scaled < 1 ? '<1' : Math.round(scaled)} %`;
}
