// Samples that are averages over a stretch of time each, as lines: what nobody measured between two of them is a gap.

export type Stretch = { at: string; overMs: number };

/** Stretches that meet within this are next to each other: looks are not to the millisecond. */
const SLACK_MS = 7_500;
/** Of older ones a node keeps one a minute, and a minute that is also in the newer ones is not told twice. */
const MINUTE_MS = 60_000;
const LOOK_MS = 15_000;

/** From minutes to single looks a part of a minute is left out, which was measured. */
function isSeam(before: Stretch, next: Stretch): boolean {
  return before.overMs > MINUTE_MS / 2 && next.overMs > 0 && next.overMs <= LOOK_MS;
}

export function stretches<Sample extends Stretch>(samples: readonly Sample[]) {
  const points: (Sample | number)[] = samples.flatMap((sample, index) => {
    const before = samples[index - 1];
    const began = Date.parse(sample.at) - sample.overMs;
    const slack = before !== undefined && isSeam(before, sample) ? MINUTE_MS + SLACK_MS : SLACK_MS;
    const gap = before !== undefined && began - Date.parse(before.at) > slack;
    return gap ? [began / 1_000, sample] : [sample];
  });
  return {
    /** Seconds since 1970. */
    times: points.map((point) => (typeof point === 'number' ? point : Date.parse(point.at) / 1_000)),
    values: (of: (sample: Sample) => number | null): (number | null)[] =>
      points.map((point) => (typeof point === 'number' ? null : of(point))),
  };
}
