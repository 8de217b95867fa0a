"""What people see: the columns of status and top, and how values are written."""
