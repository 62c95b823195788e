// Which backups stand together: an incremental one needs the one that it is based on, and all that one needs.

export type Linked = {
  path: string;
  /** The path of the one that it is based on. */
  basis: string | null;
  takenAt: string | null;
};

export type Chain<Row> = {
  /** The path of its first one, which may be missing. */
  first: string;
  /** What its oldest one here is based on, if that is not here. */
  missing: string | undefined;
  /** Oldest first. */
  rows: Row[];
};

const when = (row: Linked) => (row.takenAt === null ? 0 : Date.parse(row.takenAt));

/** Chains with the newest first; those of which no time is known come last. */
export function chains<Row extends Linked>(rows: readonly Row[]): Chain<Row>[] {
  const known = new Map(rows.map((row) => [row.path, row]));
  const found = new Map<string, Chain<Row>>();
  for (const row of rows) {
    let first: Linked = row;
    let missing: string | undefined;
    const seen = new Set([row.path]);
    while (first.basis !== null && missing === undefined) {
      const before = known.get(first.basis);
      // What is damaged may say anything, also that it is based on itself.
      if (!before || seen.has(before.path)) missing = first.basis;
      else {
        seen.add(before.path);
        first = before;
      }
    }
    const key = missing ?? first.path;
    const chain = found.get(key) ?? { first: key, missing, rows: [] };
    chain.rows.push(row);
    found.set(key, chain);
  }
  const all = [...found.values()];
  for (const chain of all) chain.rows.sort((one, other) => when(one) - when(other));
  const newest = ({ rows: its }: Chain<Row>) => Math.max(...its.map(when));
  return all.sort((one, other) => newest(other) - newest(one));
}

/** Where it is kept: its path without its name. */
export function placeOf(path: string): string {
  const cut = path.replace(/\/+$/, '');
  return cut.slice(0, cut.lastIndexOf('/')) || '/';
}

export function nameOf(path: string): string {
  return path.replace(/\/+$/, '').split('/').at(-1) ?? path;
}
