"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["bytes_text", "change", "count", "duration", "milliseconds", "percent", "short", "times"]

_THIN = "\u202f"


def count(value: int) -> str:
    """Three digits and a unit: thousands, millions, billions.

    Examples
    --------
    >>> [count(value).replace("\u202f", " ") for value in (999, 1_234_567, 2_000_000_000)]
    ['999', '1.23 M', '2.00 G']
    """
    scaled = float(value)
    for unit in ("", "k", "M", "G", "T"):
        if abs(scaled) < 999.5 or unit == "T":
            return f"{scaled:.3g}" if not unit else f"{_three(scaled)}{_THIN}{unit}"
        scaled /= 1000
    raise AssertionError("unreachable")


def short(value: float) -> str:
    """A round number without the zeros of its digits, as on an axis.

    Examples
    --------
    >>> [short(value).replace("\u202f", " ") for value in (0, 20_000_000, 1500)]
    ['0', '20 M', '1.5 k']
    """
    digits, space, unit = count(round(value)).partition(_THIN)
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}{space}{unit}"


def bytes_text(value: int) -> str:
    """Decimal units, as file managers and networks count.

    Examples
    --------
    >>> bytes_text(1_250_000).replace("\u202f", " ")
    '1.25 MB'
    """
    text = count(value)
    return f"{text}B" if text[-1].isalpha() else f"{text}{_THIN}B"


def milliseconds(value: float) -> str:
    """Three digits.

    Examples
    --------
    >>> milliseconds(3.14159).replace("\u202f", " ")
    '3.14 ms'
    """
    return f"{_three(value)}{_THIN}ms"


def duration(seconds: float) -> str:
    """Seconds, or hours and minutes where it is long.

    Examples
    --------
    >>> [duration(value).replace("\u202f", " ") for value in (4.2, 75, 7260)]
    ['4.20 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 59.5:
        return f"{_three(seconds)}{_THIN}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{_THIN}min {whole % 60}{_THIN}s"
    return f"{whole // 3600}{_THIN}h {whole % 3600 // 60}{_THIN}min"


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage.

    Examples
    --------
    >>> percent(0.98765).replace("\u202f", " ")
    '98.8 %'
    """
    return f"{100 * value:.{digits}f}{_THIN}%"


def times(before: float, after: float) -> str:
    """How many times less.

    Examples
    --------
    >>> times(10, 4)
    '2.50×'
    """
    if not after:
        return "∞" if before else "1.00×"
    return f"{_three(before / after)}×"


def change(before: float, after: float) -> str:
    """A signed percentage of what was.

    Examples
    --------
    >>> change(10, 4).replace("\u202f", " ")
    '−60.0 %'
    """
    if not before:
        return "—"
    ratio = after / before - 1
    if abs(ratio) < 0.0005:
        return f"±0{_THIN}%"
    return f"{'−' if ratio < 0 else '+'}{abs(100 * ratio):.1f}{_THIN}%"


def _three(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
