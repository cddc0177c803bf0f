package api

// Tailnet is the control server behind the API.
type Tailnet interface {
	// TagOwners returns the owners of a tag, and whether the policy defines the tag.
	TagOwners(tag string) (owners []string, defined bool)
	// UserOwns says whether a user may give the tag to devices.
	UserOwns(login, tag string) bool

	// Devices returns all devices in the order in which they joined.
	Devices() []Device
	// DeleteDevice removes the device with this node ID, and says whether there was one.
	DeleteDevice(nodeID string) bool
	// ChangeDevice changes the device with this node ID, and says whether there is one.
	ChangeDevice(nodeID string, change DeviceChange) bool

	// Policy returns the text of the policy in force.
	Policy() PolicyText
	// ReplacePolicy puts a text in force unless check or the control server refuses it. No other
	// replacement happens between check and the replacement.
	ReplacePolicy(text string, check func(current PolicyText) error) error
	// CheckPolicy returns the reasons for which the control server refuses a text: a [Refusal] for
	// tests that fail, and any other error for a text that is not a policy.
	CheckPolicy(text string) error
	// CheckTests evaluates a JSON list of policy tests against the policy in force.
	CheckTests(tests []byte) error
	// PolicyWarnings returns what is accepted in a valid policy but has no effect.
	PolicyWarnings(text string) []Complaint
	// PreviewPolicy returns the rules of a text that concern a user or a destination.
	PreviewPolicy(text string, query PreviewQuery) ([]PreviewMatch, error)
}

// PolicyText is the text of a policy file.
type PolicyText struct {
	Text string
	// Untouched is true while nobody has replaced the policy of a new tailnet.
	Untouched bool
}

// PreviewQuery asks for rules. One of the fields is empty.
type PreviewQuery struct {
	// User is a login name, or a tag.
	User string
	// Destination is an address and a port.
	Destination string
}

// PreviewMatch is a rule of a policy.
type PreviewMatch struct {
	Users      []string `json:"users"`
	Ports      []string `json:"ports"`
	LineNumber int      `json:"lineNumber"`
}

// DeviceChange has the fields of a device that change; others are nil.
type DeviceChange struct {
	Authorized        *bool
	KeyExpiryDisabled *bool
	Tags              *[]string
	Name              *string
	// Expire lets the node key expire now.
	Expire bool
}
