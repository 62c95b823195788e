// How many CPUs were used between one sample and the next.

/** Two looks further apart have a time between them that was not measured. */
const GAP_MS = 15_000;

/** Of each sample, since the one before it; none where there is none, or where counting began again. */
export function cpuShares(samples: readonly { at: string; cpuSecondsTotal: number }[]): (number | null)[] {
  return samples.map((sample, index) => {
    const before = samples[index - 1];
    if (!before) return null;
    const took = Date.parse(sample.at) - Date.parse(before.at);
    const used = sample.cpuSecondsTotal - before.cpuSecondsTotal;
    return took <= 0 || took > GAP_MS || used < 0 ? null : (used * 1_000) / took;
  });
}
