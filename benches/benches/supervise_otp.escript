#!/usr/bin/env escript
%%! -kernel logger_level none
%% The same measure as supervise.rs takes of ours, of an Erlang/OTP supervisor: a client tells a gen_server to crash and
%% calls it until the next life answers. Prints p50 and p99 in nanoseconds.
-module(supervise_otp).
-mode(compile).
-export([main/1, init/1, start_worker/0, handle_call/3, handle_cast/2]).

main([Rounds]) ->
    N = list_to_integer(Rounds),
    _ = many(500),
    Times = lists:sort(many(N)),
    io:format("~b ~b~n", [lists:nth(N div 2, Times), lists:nth(N * 99 div 100, Times)]).

%% A supervisor walks the list of its restarts of late at every restart: a new one each hundred keeps that out.
many(N) when N =< 0 -> [];
many(N) ->
    {ok, Supervisor} = supervisor:start_link(?MODULE, supervisor),
    Times = [round_trip() || _ <- lists:seq(1, 100)],
    unlink(Supervisor),
    Gone = monitor(process, Supervisor),
    exit(Supervisor, shutdown),
    receive {'DOWN', Gone, _, _, _} -> ok end,
    Times ++ many(N - 100).

round_trip() ->
    Start = erlang:monotonic_time(nanosecond),
    gen_server:cast(worker, crash),
    again(),
    erlang:monotonic_time(nanosecond) - Start.

%% A call that the dying life took, or that found none, is made again.
again() ->
    try gen_server:call(worker, ping) of pong -> ok
    catch exit:_ -> erlang:yield(), again()
    end.

start_worker() -> gen_server:start_link({local, worker}, ?MODULE, worker, []).

init(supervisor) ->
    Child = #{id => worker, start => {?MODULE, start_worker, []}, restart => permanent},
    {ok, {#{strategy => one_for_one, intensity => 1000000, period => 1}, [Child]}};
init(worker) -> {ok, nothing}.

handle_call(ping, _, State) -> {reply, pong, State}.

handle_cast(crash, _) -> erlang:error(crash).
