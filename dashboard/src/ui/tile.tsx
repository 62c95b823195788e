// One figure with its name, perhaps where it comes from and how it went.
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';

export function Tile({
  label,
  value,
  note,
  to,
  search,
  trail,
}: {
  label: string;
  /** Absent where it was not measured. */
  value: ReactNode | undefined;
  note?: ReactNode;
  to?: string;
  search?: Record<string, unknown>;
  trail?: (number | null)[];
}) {
  const body = (
    <>
      <div className="dim" style={{ fontSize: '0.8rem' }}>
        {label}
      </div>
      <div className="num" style={{ fontSize: '1.55rem', fontWeight: 650, lineHeight: 1.25 }}>
        {value ?? <span className="dim">–</span>}
      </div>
      <div className="dim two-lines" style={{ fontSize: '0.78rem', minHeight: '1.2em' }}>
        {note}
      </div>
      {trail && <Spark values={trail} />}
    </>
  );
  if (!to) return <div className="card">{body}</div>;
  return (
    <Link
      to={to}
      search={search as never}
      className="card tile-link"
      style={{ color: 'inherit', textDecoration: 'none', display: 'block' }}
    >
      {body}
    </Link>
  );
}

const WIDTH = 160;
const HEIGHT = 26;

/** The last values as a line; what was not measured is a gap. */
function Spark({ values }: { values: (number | null)[] }) {
  const known = values.filter((value): value is number => value !== null);
  const top = Math.max(1, ...known);
  let path = '';
  let open = false;
  values.forEach((value, index) => {
    if (value === null) {
      open = false;
      return;
    }
    const x = values.length < 2 ? 0 : (index / (values.length - 1)) * WIDTH;
    path += `${open ? 'L' : 'M'}${x.toFixed(1)} ${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
    open = true;
  });
  return (
    <svg
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      preserveAspectRatio="none"
      width="100%"
      height={HEIGHT}
      aria-hidden
      style={{ display: 'block' }}
    >
      <path d={path} fill="none" stroke="var(--busy)" strokeWidth={1.5} vectorEffect="non-scaling-stroke" />
    </svg>
  );
}
