"""The student of stage (b) with KDCI."""

from src.kdci.mixin import KDCIMixin
from src.student.module import StudentModule


class KDCIStudent(KDCIMixin, StudentModule):
    """A student whose compensated prediction meets the teacher."""
