// The frame of every screen: who is signed in, whether it is live, where else to go.
import { ActionIcon, Burger, Group, useMantineColorScheme } from '@mantine/core';
import { useDisclosure, useHotkeys } from '@mantine/hooks';
import { Link, Outlet, useNavigate, useRouterState } from '@tanstack/react-router';
import {
  Activity,
  Archive,
  Bot,
  Cable,
  CircleDollarSign,
  CircleHelp,
  HardDrive,
  Hexagon,
  LayoutDashboard,
  ListTodo,
  LogOut,
  MessageCircleQuestion,
  Moon,
  Network,
  ScrollText,
  Search as SearchIcon,
  Server,
  SquareTerminal,
  Sun,
  SunMoon,
} from 'lucide-react';
import { lazy, Suspense, useEffect, useRef } from 'react';
import mark from '../assets/mark.svg';
import { signOut, useSession } from '../live/session';
import { Connected, CutBanner } from './connected';
import { fetchScreens } from './screens';

const loadSearch = () => import('./search');
const Search = lazy(loadSearch);
const SignIn = lazy(() => import('./sign_in'));
const Keys = lazy(() => import('./keys'));

export const SCREENS = [
  { to: '/', label: 'Overview', icon: LayoutDashboard, key: 'o' },
  { to: '/tasks', label: 'Tasks', icon: ListTodo, key: 't' },
  { to: '/agents', label: 'Agents', icon: Bot, key: 'a' },
  { to: '/approvals', label: 'Approvals', icon: MessageCircleQuestion, key: 'p' },
  { to: '/swarms', label: 'Swarms', icon: Hexagon, key: 's' },
  { to: '/tree', label: 'Supervision', icon: Network, key: 'r' },
  { to: '/hosts', label: 'Hosts and VMs', icon: HardDrive, key: 'h' },
  { to: '/networks', label: 'Networks', icon: Cable, key: 'n' },
  { to: '/backups', label: 'Backups', icon: Archive, key: 'b' },
  { to: '/cluster', label: 'Cluster', icon: Server, key: 'c' },
  { to: '/events', label: 'Events', icon: ScrollText, key: 'e' },
  { to: '/metrics', label: 'Metrics', icon: Activity, key: 'm' },
  { to: '/spend', label: 'Spend', icon: CircleDollarSign, key: 'd' },
] as const;

/** A second key counts for so long after `g`. */
const CHORD_MS = 1_500;

export function Shell() {
  const { token } = useSession();
  return token === '' ? (
    <Suspense fallback={null}>
      <SignIn />
    </Suspense>
  ) : (
    <SignedIn />
  );
}

function SignedIn() {
  const [menu, { toggle, close }] = useDisclosure();
  const [searching, search] = useDisclosure();
  const [helping, help] = useDisclosure();
  const navigate = useNavigate();
  const path = useRouterState({ select: (state) => state.location.pathname });
  const chord = useRef(0);
  // Who presses `/` types on at once: the box must not have to be fetched first. And screens open while the node is away.
  useEffect(() => {
    const timer = setTimeout(async () => {
      await loadSearch().catch(() => {});
      await fetchScreens();
    }, 1_500);
    return () => clearTimeout(timer);
  }, []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the menu closes when the screen changes
  useEffect(close, [path]);
  useHotkeys([
    ['/', search.open],
    ['mod+K', search.open],
    ['shift+?', help.open],
    ['?', help.open],
    ['g', () => (chord.current = Date.now())],
    ...SCREENS.map(({ to, key }): [string, () => void] => [
      key,
      () => {
        if (Date.now() - chord.current < CHORD_MS) void navigate({ to });
        chord.current = 0;
      },
    ]),
  ]);
  return (
    <div className="shell">
      <a href="#main" className="skip">
        Skip to the screen
      </a>
      <header className="shell-head">
        <Group gap="xs" wrap="nowrap">
          <Burger
            opened={menu}
            onClick={toggle}
            className="shell-burger"
            size="sm"
            aria-label={menu ? 'Close the menu' : 'Open the menu'}
            aria-expanded={menu}
          />
          <Link to="/" aria-label="Hiveward, overview" className="shell-mark">
            <img src={mark} width={24} height={24} alt="" />
            <strong className="shell-wide">Hiveward</strong>
          </Link>
        </Group>
        <button type="button" onClick={search.open} className="shell-search">
          <SearchIcon size={15} aria-hidden />
          <span className="clip">Search</span>
          <kbd className="shell-wide">/</kbd>
        </button>
        <Group gap={6} wrap="nowrap">
          <Connected />
          <Scheme />
          <ActionIcon
            variant="subtle"
            color="gray"
            aria-label="Keys and help"
            title="Keys and help (?)"
            onClick={help.open}
            className="shell-wide"
          >
            <CircleHelp size={18} />
          </ActionIcon>
          <ActionIcon variant="subtle" color="gray" aria-label="Sign out" title="Sign out" onClick={() => signOut()}>
            <LogOut size={18} />
          </ActionIcon>
        </Group>
      </header>
      <nav className="shell-nav" aria-label="Screens" data-open={menu || undefined}>
        {SCREENS.map(({ to, label, icon: Icon }) => (
          <Link key={to} to={to} className="nav-link" activeOptions={{ exact: to === '/', includeSearch: false }}>
            <Icon size={17} aria-hidden />
            {label}
          </Link>
        ))}
        <a href="/graphql" className="nav-link" style={{ marginTop: 'auto' }}>
          <SquareTerminal size={17} aria-hidden />
          GraphiQL
        </a>
      </nav>
      <div className="shell-main">
        <CutBanner />
        <main id="main">
          <Outlet />
        </main>
      </div>
      <Suspense fallback={null}>
        {searching && <Search close={search.close} />}
        {helping && <Keys close={help.close} />}
      </Suspense>
    </div>
  );
}

const SCHEMES = [
  { scheme: 'auto', icon: SunMoon, words: 'as the system' },
  { scheme: 'light', icon: Sun, words: 'light' },
  { scheme: 'dark', icon: Moon, words: 'dark' },
] as const;

function Scheme() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const at = Math.max(
    0,
    SCHEMES.findIndex(({ scheme }) => scheme === colorScheme),
  );
  const { icon: Icon, words } = SCHEMES[at] ?? SCHEMES[0];
  const next = SCHEMES[(at + 1) % SCHEMES.length] ?? SCHEMES[0];
  return (
    <ActionIcon
      variant="subtle"
      color="gray"
      aria-label={`Colours: ${words}. Change to ${next.words}`}
      title={`Colours: ${words}`}
      onClick={() => setColorScheme(next.scheme)}
    >
      <Icon size={18} />
    </ActionIcon>
  );
}
