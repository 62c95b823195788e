// The tree as rows: what is collapsed or does not match is left out; what leads to a match stays.

export type Actor = {
  path: string;
  name: string;
  kind: string;
  key: string | null;
  entityName: string | null;
  status: string;
  restarts: number;
  note: string | null;
  lastFailure: { message: string } | null;
  children?: readonly Actor[];
};

export type Row<A extends Actor> = { id: string; actor: A; depth: number; open: boolean | undefined };

function matches(actor: Actor, words: string): boolean {
  return [
    actor.name,
    actor.entityName ?? '',
    actor.kind,
    actor.status,
    actor.note ?? '',
    actor.lastFailure?.message ?? '',
  ].some((text) => text.toLowerCase().includes(words));
}

export function flatten<A extends Actor>(root: A, collapsed: ReadonlySet<string>, find: string): Row<A>[] {
  const words = find.trim().toLowerCase();
  const rows: Row<A>[] = [];
  const walk = (actor: A, depth: number, shownWhole: boolean): boolean => {
    const own = words === '' || shownWhole || matches(actor, words);
    const at = rows.length;
    const children = (actor.children ?? []) as readonly A[];
    // A search looks into what is collapsed as well.
    const open = children.length === 0 ? undefined : words !== '' || !collapsed.has(actor.path);
    rows.push({ id: actor.path, actor, depth, open });
    let below = false;
    if (open) for (const child of children) below = walk(child, depth + 1, own && words !== '') || below;
    if (own || below) return true;
    rows.length = at;
    return false;
  };
  walk(root, 0, false);
  return rows;
}

/** Actors whose count of restarts grew between two readings of the tree. */
export function restarted(
  before: ReadonlyMap<string, number>,
  root: Actor,
): { now: Map<string, number>; grown: string[] } {
  const now = new Map<string, number>();
  const grown: string[] = [];
  const walk = (actor: Actor) => {
    now.set(actor.path, actor.restarts);
    const old = before.get(actor.path);
    if (old !== undefined && actor.restarts > old) grown.push(actor.path);
    for (const child of actor.children ?? []) walk(child);
  };
  walk(root);
  return { now, grown };
}
