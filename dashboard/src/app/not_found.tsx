import { Link } from '@tanstack/react-router';
import { Empty } from '../ui/shown';

export function NotFound() {
  return (
    <div className="card">
      <Empty title="There is no such page">
        The address may be misspelt. Press <kbd>/</kbd> to search, or go to the <Link to="/">overview</Link>.
      </Empty>
    </div>
  );
}
