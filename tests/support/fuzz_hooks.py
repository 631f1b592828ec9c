"""What schemathesis is told not to ask: see ``tests/server/test_fuzz.py``."""

from __future__ import annotations

import schemathesis

# In a form, nothing can say "an empty list": no part is sent; and a part without text is a field that is absent.
_NOT_SENT = ([], {}, "", None)


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Leave out forms whose fields do not reach the server as what they were in the schema's eyes."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return True
    return not any(value in _NOT_SENT for value in case.body.values())
