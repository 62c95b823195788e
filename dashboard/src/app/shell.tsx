// The frame of every screen: who is signed in, whether it is live, where else to go.
import {
  ActionIcon,
  AppShell,
  Burger,
  Group,
  Menu,
  Text,
  Tooltip,
  UnstyledButton,
  useMantineColorScheme,
} from '@mantine/core';
import { useDisclosure, useHotkeys } from '@mantine/hooks';
import { Link, Outlet, useNavigate, useRouterState } from '@tanstack/react-router';
import {
  Activity,
  Bot,
  CircleDollarSign,
  CircleHelp,
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
import { SignIn } from './sign_in';

const Search = lazy(() => import('./search'));
const Keys = lazy(() => import('./keys'));

export const SCREENS = [
  { to: '/', label: 'Overview', icon: LayoutDashboard, key: 'o' },
  { to: '/tasks', label: 'Tasks', icon: ListTodo, key: 't' },
  { to: '/agents', label: 'Agents', icon: Bot, key: 'a' },
  { to: '/approvals', label: 'Approvals', icon: MessageCircleQuestion, key: 'p' },
  { to: '/swarms', label: 'Swarms', icon: Hexagon, key: 's' },
  { to: '/tree', label: 'Supervision', icon: Network, key: 'r' },
  { to: '/cluster', label: 'Cluster', icon: Server, key: 'c' },
  { to: '/events', label: 'Events', icon: ScrollText, key: 'e' },
  { to: '/metrics', label: 'Metrics', icon: Activity, key: 'm' },
  { to: '/spend', label: 'Spend', icon: CircleDollarSign, key: 'd' },
] as const;

/** A second key counts for so long after `g`. */
const CHORD_MS = 1_500;

export function Shell() {
  const { token } = useSession();
  return token === '' ? <SignIn /> : <SignedIn />;
}

function SignedIn() {
  const [menu, { toggle, close }] = useDisclosure();
  const [searching, search] = useDisclosure();
  const [helping, help] = useDisclosure();
  const navigate = useNavigate();
  const path = useRouterState({ select: (state) => state.location.pathname });
  const chord = useRef(0);
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
    <AppShell
      header={{ height: 52 }}
      navbar={{ width: 196, breakpoint: 'sm', collapsed: { mobile: !menu } }}
      padding="md"
    >
      <a href="#main" className="skip">
        Skip to the screen
      </a>
      <AppShell.Header style={{ background: 'var(--card)' }}>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap" gap="sm">
          <Group gap="xs" wrap="nowrap">
            <Burger
              opened={menu}
              onClick={toggle}
              hiddenFrom="sm"
              size="sm"
              aria-label={menu ? 'Close the menu' : 'Open the menu'}
            />
            <Link
              to="/"
              aria-label="Hiveward, overview"
              style={{ display: 'flex', alignItems: 'center', gap: 8, color: 'inherit' }}
            >
              <img src={mark} width={24} height={24} alt="" />
              <Text fw={700} visibleFrom="xs" component="span">
                Hiveward
              </Text>
            </Link>
          </Group>
          <UnstyledButton
            onClick={search.open}
            aria-label="Search"
            style={{
              flex: '1 1 auto',
              maxWidth: 420,
              minWidth: 0,
              border: '1px solid var(--line)',
              borderRadius: 8,
              padding: '0.3rem 0.7rem',
              background: 'var(--page)',
            }}
          >
            <Group gap="xs" wrap="nowrap" c="dimmed">
              <SearchIcon size={15} aria-hidden />
              <Text size="sm" className="clip" style={{ flex: 1 }}>
                Search
              </Text>
              <Text size="xs" component="kbd" visibleFrom="xs">
                /
              </Text>
            </Group>
          </UnstyledButton>
          <Group gap={6} wrap="nowrap">
            <Connected />
            <Scheme />
            <Tooltip label="Keys and help (?)">
              <ActionIcon variant="subtle" color="gray" aria-label="Keys and help" onClick={help.open} visibleFrom="sm">
                <CircleHelp size={18} />
              </ActionIcon>
            </Tooltip>
            <Tooltip label="Sign out">
              <ActionIcon variant="subtle" color="gray" aria-label="Sign out" onClick={() => signOut()}>
                <LogOut size={18} />
              </ActionIcon>
            </Tooltip>
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="xs" style={{ background: 'var(--card)' }} aria-label="Screens">
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
      </AppShell.Navbar>
      <AppShell.Main id="main" style={{ background: 'var(--page)' }}>
        <CutBanner />
        <Outlet />
      </AppShell.Main>
      <Suspense fallback={null}>
        {searching && <Search close={search.close} />}
        {helping && <Keys close={help.close} />}
      </Suspense>
    </AppShell>
  );
}

function Scheme() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const Icon = colorScheme === 'dark' ? Moon : colorScheme === 'light' ? Sun : SunMoon;
  return (
    <Menu position="bottom-end" width={150}>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" aria-label={`Colours: ${colorScheme}`}>
          <Icon size={18} />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Item leftSection={<Sun size={15} />} onClick={() => setColorScheme('light')}>
          Light
        </Menu.Item>
        <Menu.Item leftSection={<Moon size={15} />} onClick={() => setColorScheme('dark')}>
          Dark
        </Menu.Item>
        <Menu.Item leftSection={<SunMoon size={15} />} onClick={() => setColorScheme('auto')}>
          As the system
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}
