"""The commands `watch` and `cameras`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_app.cli import options, output
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.errors import CameraError, GalleryError, UsageError

if TYPE_CHECKING:
    from edge_app.live.events import LiveEvent
    from edge_app.live.mode import Mode
    from edge_app.live.update import Update, WorkerOptions
    from edge_app.media.cameras import CameraInfo
    from edge_app.notify.outlets import OutletOptions
    from edge_app.notify.watcher import NamedSource, Turns
    from edge_app.recognition.session import Session
    from edge_app.system.settings import Settings

SOURCE_HELP = "camera number or device, picture, video, folder, http or rtsp address, or 'sample'"
_FIRST = "first"
_SOURCE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


def command() -> Command:
    hooks, sending = "Hooks: programs run without a shell; may be given more than once", "Sending"
    return Command(
        "watch",
        run_watch,
        example="edge-app watch door=0 yard=rtsp://10.0.0.7/1 --json --on-unknown 'notify-send Stranger'",
        params=[
            Argument("sources", "SOURCE", f"{SOURCE_HELP} (default: see `cameras --use`); of several each may have a "
                "name, as in door=rtsp://...", required=False, many=True),
            options.json_flag(),
            Option("--liveness", kind=("off", "passive"),
                help="passive: installed liveness networks judge who is recognized; events and hooks say live yes, no "
                "or unchecked (the app's setting: off)"),
            Option("--realtime", kind=bool, help="play a video at its own speed, not as fast as it goes"),
            *output.model_options(),
            *(
                Option(f"--on-{event}", repeated=True, metavar="CMD", section=hooks, help=f"run CMD when {whom}")
                for event, whom in (
                    ("known", "somebody is recognized"),
                    ("unknown", "a stranger is there"),
                    ("left", "one leaves"),
                )
            ),
            Option("--cooldown", kind=float, default=30.0, metavar="S", section=hooks,
                help="pause per hook and person (30 s)"),
            Option("--hook-timeout", kind=float, default=30.0, metavar="S", section=hooks,
                help="a hook is ended after S (30 s)"),
            Option("--hook-limit", kind=int, default=4, metavar="N", section=hooks,
                help="hooks that may run at once (4)"),
            Option("--webhook", metavar="URL", section=sending,
                help="post every event as JSON (default: EDGE_APP_WEBHOOK)"),
            Option("--mqtt", metavar="URL", section=sending,
                help="publish to mqtt://[user:pass@]host:port/topic (EDGE_APP_MQTT)"),
            Option("--mqtt-discovery", kind=bool, section=sending,
                help="let Home Assistant find the cameras: a device each, under the topic of --mqtt"),
            Option("--mqtt-presence", kind=bool, section=sending,
                help="with it, also tell by name who is there; the broker then keeps these names"),
            Option("--mqtt-remove", kind=bool, section=sending,
                help="take what --mqtt-discovery left at the broker away again, and end"),
            options.candidates(),
            *options.recognition(),
        ],
    )  # fmt: skip


def cameras_command() -> Command:
    return Command(
        "cameras",
        run_cameras,
        example="edge-app cameras --use 2",
        params=[
            Option("--use", metavar="N",
                help=f"remember a camera, or any other source, for live commands; {_FIRST!r}: the first"),
            Option("--no-measure", kind=bool, help="do not open the cameras to count their frames"),
            options.json_flag(),
        ],
    )  # fmt: skip


def run_watch(args: Arguments) -> int:
    """Print events until the source is over or a signal comes."""
    from edge_app.fleet.follower import Follower
    from edge_app.live.worker import Worker
    from edge_app.notify.outlets import Outlets
    from edge_app.notify.watcher import Stop, watch, watch_several
    from edge_app.system.data_folder import Home
    from edge_app.system.parallel import cores

    named = named_sources(args.sources)
    if (args.mqtt_discovery or args.mqtt_remove) and not (args.mqtt or os.environ.get("EDGE_APP_MQTT")):
        raise UsageError("--mqtt-discovery and --mqtt-remove need a broker", expected="--mqtt URL, or EDGE_APP_MQTT")
    if args.mqtt_presence and not args.mqtt_discovery:
        raise UsageError("--mqtt-presence was given alone", expected="--mqtt-discovery beside it")
    if args.mqtt_remove:
        from edge_app.notify.home_assistant import remove

        gone = remove(args.mqtt or os.environ["EDGE_APP_MQTT"], options.warn)
        options.say(f"{gone} topic{'s were' if gone != 1 else ' was'} taken away from the broker")
        return 0
    if len(named) > 1 and args.threads is None:
        args = args.replaced(threads=1)  # as many frames at once as there are cores do more than all cores at one

    with Stop() as stop, Outlets(_outlets(args, named), options.warn) as outlets, ExitStack() as stack:
        home = Home.locate(args.home)
        # Whoever was forgotten elsewhere while this door was off is not to be let in.
        is_alone, unread = False, None
        try:
            is_alone = not options.exchange(home)
        except GalleryError as error:  # a classifier needs no gallery
            unread = error
        session = output.open_chosen(args)
        if session.vault is not None:
            if unread is not None:
                raise unread
            stack.enter_context(Follower(home.gallery_path, options.warn, is_alone=is_alone))
        output.tell_of(session)
        if len(named) > 1:
            at_once = max(1, cores() // args.threads)

            def open_worker(
                one: NamedSource, take: Callable[[Update], None], how: WorkerOptions, turn: Turns
            ) -> Worker:
                return Worker(session, one.text, take, how, mode=_mode(args, session), turn=turn)

            found = watch_several(named, stop, options.warn, open_worker, at_once=at_once, realtime=args.realtime)
        else:
            source = source_of(named[0].text if named else None, session.settings)
            mode = _mode(args, session)
            found = watch(session, source, stop, options.warn, realtime=args.realtime, mode=mode)
        with closing(found) as events:
            for event in events:
                outlets.take(event)
                if args.json:
                    options.print_json(event.as_dict())
                else:
                    options.say(*_line(event))
    return stop.exit_code


def _mode(args: Arguments, session: Session) -> Mode | None:
    """What looks at the frames, where that is not the session's own mode."""
    from edge_app.live.passive_mode import PassiveMode
    from edge_app.recognition.faces import PeopleSession
    from edge_app.recognition.liveness import open_liveness

    wanted = args.liveness or ("passive" if session.settings.liveness == "passive" else "off")
    if wanted == "off" or (args.liveness is None and not isinstance(session, PeopleSession)):
        return None
    if not isinstance(session, PeopleSession):
        raise UsageError(f"--liveness was given with {session.look_for}", expected="people to look for")
    return PassiveMode(session, open_liveness(session.home, session.settings.threads))


def run_cameras(args: Arguments) -> int:
    """List the cameras, or remember one."""
    from edge_app.media.cameras import list_cameras

    home, settings = options.settings(args)
    if args.use is not None:
        source = _chosen(args.use)
        home.change_settings(source=source)
        _tell_choice(source, as_json=args.json)
        return 0
    cameras = list_cameras(measure=not args.no_measure)
    if args.json:
        options.print_json({"cameras": [asdict(camera) for camera in cameras], "source": _shown(settings.source)})
        return 0
    used = settings.source or next((camera.spec for camera in cameras if not camera.problem), "")
    if cameras:
        columns = ("", "use", "name", "measured", "formats")
        options.show(options.table("", columns, (_row(camera, used) for camera in cameras)))
    else:
        options.say(
            "no camera was found; plug one in, or use another source: a video, a folder, an address, or 'sample'"
        )
    if used:
        options.say(f"* {_shown(used)} is what live commands open; choose another with: edge-app cameras --use N")
    return 0


def named_sources(given: Sequence[str]) -> tuple[NamedSource, ...]:
    """The sources of a command line with their names. Raises UsageError where two have the same, or one is a still."""
    from edge_app.media.source_spec import parse_source
    from edge_app.notify.watcher import NamedSource

    found: list[NamedSource] = []
    for text in given:
        name, equals, rest = text.partition("=")
        if not equals or not _SOURCE_NAME.fullmatch(name) or Path(text).exists():
            name, rest = "", text
        spec = parse_source(rest)
        found.append(NamedSource(name or spec.name, rest))
        if len(given) > 1 and spec.kind in ("picture", "folder"):
            raise UsageError(
                f"{spec.name} is a {spec.kind}", expected="cameras, streams and videos, of several sources"
            )
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two sources are called {twice!r}", expected="a name for each: door=SOURCE yard=SOURCE")
    if len({one.text for one in found}) < len(found):
        raise UsageError("one source was given twice", expected="every source once")
    return tuple(found)


def _outlets(args: Arguments, named: Sequence[NamedSource]) -> OutletOptions:
    """Who is to be told; refuses programs and limits that cannot work before anything is loaded."""
    from edge_app.notify.home_assistant import HomeAssistant
    from edge_app.notify.hooks import Command, HookOptions
    from edge_app.notify.mqtt import Broker
    from edge_app.notify.outlets import OutletOptions
    from edge_app.notify.webhook import Webhook
    from edge_app.system.data_folder import Home

    # A command line can be read by every user of the machine; the environment cannot.
    webhook = args.webhook or os.environ.get("EDGE_APP_WEBHOOK")
    mqtt = args.mqtt or os.environ.get("EDGE_APP_MQTT")
    broker: Callable[..., Broker] = Broker
    if args.mqtt_discovery:
        broker = partial(HomeAssistant, cameras=[one.name for one in named] or ["camera"], presence=args.mqtt_presence)
    return OutletOptions(
        hooks={
            "recognized": [Command.parse(text) for text in args.on_known],
            "unknown": [Command.parse(text) for text in args.on_unknown],
            "left": [Command.parse(text) for text in args.on_left],
        },
        limits=HookOptions(args.cooldown, args.hook_timeout, args.hook_limit, Home.locate(args.home).path.absolute()),
        deliveries=[partial(kind, url) for kind, url in ((Webhook, webhook), (broker, mqtt)) if url],
    )


def source_of(given: str | None, settings: Settings) -> str:
    """What to open: the argument, the remembered choice, or the first camera."""
    from edge_app.media.cameras import list_cameras

    if chosen := given or settings.source:
        return chosen
    first = next((camera.spec for camera in list_cameras() if not camera.problem), "0")
    return f"camera:{first}"  # whatever file of that name is about


def _chosen(text: str) -> str | None:
    """What to remember for --use; None for the first camera. Raises an error when it is not there."""
    from edge_app.media.cameras import list_cameras
    from edge_app.media.source_spec import parse_source

    if text == _FIRST:
        return None
    spec = parse_source(text)
    if spec.kind == "webcam":
        cameras = list_cameras()
        known = {word for camera in cameras for word in (camera.spec, camera.device)}
        link = Path(spec.target)  # /dev/v4l/by-id/... stays the same camera whatever else is plugged in
        if spec.target not in known and not (link.is_absolute() and link.exists()):
            listed = ", ".join(camera.spec for camera in cameras) or "none is attached"
            raise CameraError(f"{spec.name} is not there", expected=f"one of the cameras here: {listed}")
        return spec.target
    # Remembered beyond today's working folder.
    return spec.target if spec.kind in ("stream", "sample") else str(Path(spec.target).absolute())


def _tell_choice(source: str | None, *, as_json: bool) -> None:
    if as_json:
        options.print_json({"source": _shown(source)})
    else:
        options.say(f"live commands open {_shown(source) or 'the first camera'} from now on")


def _shown(source: str | None) -> str | None:
    """A source without its password."""
    from edge_app.media.source_spec import without_secrets

    return without_secrets(source) if source and "://" in source else source


def _row(camera: CameraInfo, used: str) -> tuple[str, ...]:
    from edge_app.media.cameras import formats_line

    return (
        "*" if used in (camera.spec, camera.device) else "",
        camera.spec,
        camera.name,
        camera.problem or _measured(camera),
        formats_line(camera.formats),
    )


def _measured(camera: CameraInfo) -> str:
    if camera.measured_fps is None or camera.measured_size_px is None:
        return ""
    return f"{camera.measured_fps:.1f} fps at {camera.measured_size_px[0]}x{camera.measured_size_px[1]}"


_COLOURS: Final = {"recognized": "green", "unknown": "yellow", "source_lost": "red"}


def _line(event: LiveEvent) -> tuple[str | options.Coloured, ...]:
    facts: list[Any] = [event.source] if event.source is not None else []
    facts += [f"track {event.track}"] if event.track is not None else []
    if event.classes is not None:
        facts.append(", ".join(f"{one.label} {one.probability:.2f}" for one in event.classes[:2]))
    if event.similarity is not None:
        facts.append(f"similarity {event.similarity:.2f}")
    if event.live is not None:
        facts.append(f"live: {event.live}")
    if event.duration_s is not None:
        facts.append(f"{event.duration_s:.1f} s")
    who = f"  {event.name}" if event.name else ""
    told = options.Coloured(f"{event.event:<11}{who}", _COLOURS.get(event.event, "white"))
    return f"{event.time_s:10.1f} s  ", told, f"  ({', '.join(facts)})" if facts else ""
