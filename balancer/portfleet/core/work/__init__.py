"""What each verb was asked and remembers: a frozen dataclass a verb, loaded only when an operation of it is met."""
