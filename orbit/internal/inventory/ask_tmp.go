package inventory

func (s *Session) Ask(k Key) {}
